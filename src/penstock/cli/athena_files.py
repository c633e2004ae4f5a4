"""``penstock athena inspect``: what becomes of an ``aiges.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.output import AsJson, print_json, print_table, wants_json


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with an aiges.toml, or that file.")],
    as_json: AsJson = False,
) -> None:
    """Show the models that an aiges.toml describes, and what becomes of each of its keys.

    A folder with an aiges.toml and without a model.toml is a model by itself; nothing need be converted.

    penstock athena inspect models/ocr
    """
    from penstock.models import aiges_file, manifest

    path = (folder / aiges_file.FILE_NAME if folder.is_dir() else folder).absolute()
    found = aiges_file.read(path, manifest.tables_of(path))
    if wants_json(as_json):
        keys = [{"key": note.key, "effect": note.effect, "reason": note.reason} for note in found.notes]
        print_json({"manifests": found.manifests, "keys": keys})
        return
    for stated in found.manifests:
        rows = [(name, _shown(value)) for name, value in _rows(stated)]
        print_table(("key", "value"), rows, title=f"\n{stated['name']}")
    print_table(
        ("key", "effect", "what it becomes, or why not"),
        ((note.key, note.effect.value, note.reason) for note in found.notes),
        title="\nkeys of the file",
    )


def _rows(stated: dict[str, object]) -> list[tuple[str, object]]:
    """Return the keys of a manifest, those of its table named ``runtime.key``."""
    found: list[tuple[str, object]] = []
    for name, value in stated.items():
        if isinstance(value, dict):
            found += [(f"{name}.{inner}", one) for inner, one in value.items()]
        elif name != "name":
            found.append((name, value))
    return found


def _shown(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
