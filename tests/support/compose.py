"""Read compose files and Dockerfiles like the programs that use them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec
from dotenv import dotenv_values
from ruamel.yaml import YAML

_VARIABLE: Final = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:?[-?])(?P<other>[^}]*))?\})")


class VariableMissing(Exception):
    """A variable is required and has no value."""


def specification() -> Any:
    """Return a validator by the schema of the compose specification."""
    file = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return jsonschema_rs.validator_for(msgspec.json.decode(file.read_bytes()))


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    return content


def values(path: Path) -> dict[str, str]:
    """Return the variables of a file ``.env``."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Return the content of a compose file with its variables replaced. Raises VariableMissing."""
    if isinstance(value, dict):
        return {name: interpolated(one, variables) for name, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    return _VARIABLE.sub(lambda found: _replaced(found, variables), value) if isinstance(value, str) else value


def _replaced(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, other = found["name"], found["kind"] or "-", found["other"] or ""
    if name is None:
        return "$"
    value = variables.get(name)
    if value or (value is not None and not kind.startswith(":")):
        return value
    if kind.endswith("?"):
        raise VariableMissing(other)
    return other


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, without comments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def last_stage(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of the stage that becomes the image."""
    found = instructions(path)
    return found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]


def environment_of_image(path: Path) -> dict[str, str]:
    """Return the variables that an image sets."""
    pairs = [word.partition("=") for name, rest in last_stage(path) if name == "ENV" for word in shlex.split(rest)]
    return {name: value for name, _, value in pairs}
