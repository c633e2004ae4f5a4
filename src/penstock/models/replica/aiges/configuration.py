"""The configuration that wrappers get: the manifest's, or the table ``[wrapper]`` of an ``aiges.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.models.replica.aiges.calls import text_of

FILE: Final = "aiges.toml"


def wrapper_config(options: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the configuration as a wrapper gets it: flat, all values as text.

    It is the manifest's table ``config``; without one, the file that ``usrCfg`` in ``aiges.toml`` names, or the table
    ``[wrapper]`` there. Raises ValueError, with the file and the reason, for a file that cannot be read.
    """
    if "config" in options:
        return flat(options["config"])
    stated = loader_config(options, folder)
    user = stated.get("aiges", {}).get("usrCfg")
    return flat(_read(folder / user) if isinstance(user, str) and user else stated.get("wrapper", {}))


def loader_config(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the file ``aiges.toml`` beside the manifest, or the one that it names; nothing if there is none."""
    stated = options.get("toml")
    path = folder / (stated or FILE)
    return _read(path) if stated or path.is_file() else {}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a table with the values of inner tables under ``section.key``, as text."""
    return dict(_flat(table, prefix))


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", msgspec.json.encode(value, enc_hook=str).decode()
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    return text_of(value) if isinstance(value, str | int | float) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not TOML: {error}") from None
