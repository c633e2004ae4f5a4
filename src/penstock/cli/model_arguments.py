"""Parse the arguments of the model commands: inputs, files, manifests, times. Mistakes raise typer.BadParameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import typer

from penstock.cli.gateway import read_input
from penstock.models.uploads import is_media


@dataclass(frozen=True, slots=True)
class CallInput:
    """The input of a call and its media, which travel beside it."""

    value: Any  # None if no input is stated
    files: dict[str, Path] | None


def call_input(fields: list[str] | None, whole: str | None, stated_files: list[str] | None) -> CallInput | str:
    """Return the input of a call: ``whole``, with fields added or replaced by KEY=VALUE.

    A single VALUE without a KEY is returned as text: its meaning depends on the model (``place``).
    """
    media = files(stated_files)
    bare = [field for field in fields or [] if not field.partition("=")[1]]
    if bare and (len(fields or []) > 1 or whole is not None):
        raise typer.BadParameter(f"{bare[0]!r} is not KEY=VALUE")
    if bare:
        return bare[0]
    if whole is None and not fields:
        return CallInput(None, media)
    given: Any = {} if whole is None else read_input(whole)
    for field in fields or []:
        key, _, text = field.partition("=")
        if not key:
            raise typer.BadParameter(f"{field!r} is not KEY=VALUE")
        if not isinstance(given, dict):
            raise typer.BadParameter("fields can only be added to an input that is an object")
        given[key] = _value(text)
    return CallInput(given, media)


def place(text: str, schema: Mapping[str, Any] | None, media: dict[str, Path] | None = None) -> CallInput:
    """Return the input that a single VALUE stands for: the whole input or its only field, as the model's schema says.

    A field that takes media takes the path of a file.
    """
    properties = (schema or {}).get("properties")
    if not isinstance(properties, dict) or not properties:
        return CallInput(_as(schema or {}, text), media)
    required = [name for name in properties if name in (schema or {}).get("required", ())]
    left = [name for name in required or properties if name not in (media or {})]
    if len(left) != 1:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE; the model's fields are {', '.join(properties)}")
    (name,) = left
    if not is_media(properties[name]) or text.startswith(("data:", "blob:", "http://", "https://")):
        return CallInput({name: _as(properties[name], text)}, media)
    if not Path(text).is_file():
        raise typer.BadParameter(f"the model takes a file as {name}, and there is no file {text}")
    return CallInput(None, {**(media or {}), name: Path(text)})


def files(stated: list[str] | None) -> dict[str, Path] | None:
    """Return the media of a call from FIELD=PATH."""
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
    """Return the manifest to register: the file, if there is one, overridden by the options of the command line."""
    stated = _read_manifest(file) if file is not None else {}
    if name is not None:
        stated["name"] = name
    if runtime is not None:
        stated["runtime"] = runtime
    given = {key: value for key, value in options.items() if value is not None}
    if given:
        if not isinstance(stated.get("runtime"), str):
            raise typer.BadParameter("requires --runtime", param_hint=f"--{next(iter(given)).replace('_', '-')}")
        table = stated.get(stated["runtime"], {})
        if not isinstance(table, dict):
            raise typer.BadParameter(f"{stated['runtime']} must be a table", param_hint="--manifest")
        stated[stated["runtime"]] = table | given
    if "name" not in stated:
        raise typer.BadParameter("name the model, or a --manifest that does")
    return stated


def since(stated: str | None) -> datetime | None:
    """Parse a time, stated as a time or as a duration before now (``5m``); a time without an offset is local."""
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
        raise typer.BadParameter("must be a time, or a duration before now such as 5m", param_hint="--since") from None
    return found.astimezone() if found.tzinfo is None else found


def _as(schema: Mapping[str, Any], text: str) -> Any:
    """Convert a text by its schema: keep it where only text is allowed, otherwise parse it if it is JSON."""
    return text if schema.get("type") == "string" else _value(text)


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python would parse; JSON does not have them, so they count as text."""
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
        raise typer.BadParameter(f"{path}: must be a table", param_hint="--manifest")
    read.setdefault("name", path.parent.name if path.name == "model.toml" else path.stem)
    return read
