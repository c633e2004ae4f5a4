"""What the model commands are told: inputs, files, manifests, times. Mistakes are typer.BadParameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import typer

from penstock.cli.gateway import read_input


def model_input(fields: list[str] | None, whole: str | None) -> Any:
    """The input of a call: ``whole``, with KEY=VALUE fields over it; None when nothing is stated."""
    if whole is None and not fields:
        return None
    given: Any = {} if whole is None else read_input(whole)
    for field in fields or []:
        key, equals, text = field.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{field!r} is not KEY=VALUE")
        if not isinstance(given, dict):
            raise typer.BadParameter("fields go with an input that is an object")
        given[key] = _value(text)
    return given


def files(stated: list[str] | None) -> dict[str, Path] | None:
    """The media of a call from FIELD=PATH."""
    found: dict[str, Path] = {}
    for one in stated or []:
        field, equals, path = one.partition("=")
        if not equals or not field:
            raise typer.BadParameter(f"{one!r} is not FIELD=PATH", param_hint="--file")
        if not Path(path).is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint="--file")
        found[field] = Path(path)
    return found or None


def manifest(
    file: Path | None, name: str | None, runtime: str | None, options: Mapping[str, str | None]
) -> dict[str, Any]:
    """What to register: a file if there is one, with what was stated on the command line over it."""
    stated = _read_manifest(file) if file is not None else {}
    if name is not None:
        stated["name"] = name
    if runtime is not None:
        stated["runtime"] = runtime
    given = {key: value for key, value in options.items() if value is not None}
    if given:
        if not isinstance(stated.get("runtime"), str):
            raise typer.BadParameter("goes with --runtime", param_hint=f"--{next(iter(given)).replace('_', '-')}")
        table = stated.get(stated["runtime"], {})
        if not isinstance(table, dict):
            raise typer.BadParameter(f"{stated['runtime']} must be a table", param_hint="--manifest")
        stated[stated["runtime"]] = table | given
    if "name" not in stated:
        raise typer.BadParameter("name the model, or a --manifest that does")
    return stated


def since(stated: str | None) -> datetime | None:
    """A time, or how long ago, such as ``5m``; a time without its offset is a local one."""
    from penstock import durations

    if stated is None:
        return None
    try:
        return datetime.now(UTC) - durations.parse(stated)
    except ValueError:
        pass
    except OverflowError:
        raise typer.BadParameter("is too long ago", param_hint="--since") from None
    try:
        found = datetime.fromisoformat(stated)
    except ValueError:
        raise typer.BadParameter("must be a time, or how long ago such as 5m", param_hint="--since") from None
    return found.astimezone() if found.tzinfo is None else found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(text: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON does not have: they are text like any other."""
    raise ValueError(text)


def _read_manifest(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        read: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--manifest") from None
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--manifest") from None
    if not isinstance(read, dict):
        raise typer.BadParameter(f"{path}: is no table", param_hint="--manifest")
    read.setdefault("name", path.parent.name if path.name == "model.toml" else path.stem)
    return read
