"""The options that the runtimes of engines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def mistakes(
    options: Mapping[str, Any], folder: Path, *, flags: Sequence[str] = ("sessions",)
) -> list[tuple[str, str]]:
    """Return what is wrong with ``config``, ``header_pass``, ``schema`` and options that are true or false."""
    problems = [(name, "must be true or false") for name in flags if not isinstance(options.get(name, False), bool)]
    config = options.get("config", {})
    if not isinstance(config, Mapping) or not all(isinstance(value, str | int | float) for value in config.values()):
        problems.append(("config", "must be a table of texts, numbers and booleans"))
    passed = options.get("header_pass", [])
    if not isinstance(passed, list) or not all(isinstance(one, str) for one in passed):
        problems.append(("header_pass", "must be a list of names of fields in a call's header"))
    if "schema" in options and not is_file(options["schema"], folder):
        problems.append(("schema", f"must be a file in the manifest's folder: {options['schema']}"))
    return problems


def resource_mistakes(resources: Any, folder: Path) -> list[tuple[str, str]]:
    """Return what is wrong with ``resources``."""
    if not isinstance(resources, Mapping) or not all(isinstance(path, str) for path in resources.values()):
        return [("resources", "must be a table of files by the names that calls state")]
    return [
        (f"resources.{name}", f"must be a file in the manifest's folder: {path}")
        for name, path in resources.items()
        if not is_file(path, folder)
    ]


def is_file(stated: Any, folder: Path) -> bool:
    return isinstance(stated, str) and "\0" not in stated and (folder / stated).is_file()
