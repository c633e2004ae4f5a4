"""The values in files of an earlier build that were kept, and that a new build would write differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from penstock.apps.layout import Layout
from penstock.apps.packaging.writing import VERSION_FILE
from penstock.settings.source import from_file

_MAX_BYTES: Final = 2**16  # of version.json


def outdated(output: Path, layout: Layout, *, registry: str | None, repository: str | None) -> list[str]:
    """Return a message for each kept value of ``.env`` and ``version.json`` that names other images than this build.

    A registry or repository of None may be any, because the operator may have set it there.
    """
    wanted = {"version": layout.tag, "registry": registry, "repository": repository}
    names = {"API_VERSION": "version", "REGISTRY": "registry", "REPOSITORY": "repository"}
    environment = {"API_VERSION": layout.tag} | {name: value for name, value in _of_env(output).items() if value}
    return [
        *_differing(output / VERSION_FILE, _of_version_file(output), wanted),
        *_differing(output / ".env", environment, {name: wanted[key] for name, key in names.items()}),
    ]


def _differing(path: Path, found: Mapping[str, object], wanted: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in wanted.items():
        if value is not None and found.get(name) != value:
            was = f"{found[name]!r:.200}" if name in found else "missing"
            yield f"kept {path}, where {name} is {was}, not {value!r}: change it there to deploy this build"


def _of_version_file(output: Path) -> dict[str, object]:
    try:
        with (output / VERSION_FILE).open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=dict[str, object])
    except (OSError, msgspec.MsgspecError):
        return {}


def _of_env(output: Path) -> dict[str, str]:
    try:
        return from_file(output / ".env")
    except (OSError, UnicodeDecodeError):
        return {}
