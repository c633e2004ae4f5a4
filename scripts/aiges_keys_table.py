"""Writes the table of the keys of aiges.toml into docs/athena/aiges-toml.md; ``make fix`` runs it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from penstock.models.aiges_keys import ANY, KEYS, SERVICE, Key

DOCUMENT = Path(__file__).parents[1] / "docs" / "athena" / "aiges-toml.md"
_BEGIN = "<!-- keys: written by `make fix` -->\n"
_END = "<!-- end of keys -->\n"
_HEAD = "| section | keys | effect | what becomes of them |\n| --- | --- | --- | --- |\n"


def table() -> str:
    """Return the table, with the keys of one section, effect and meaning in one row."""
    rows = groupby(KEYS, key=lambda one: (one.section, one.effect, one.meaning))
    return _HEAD + "".join(_row(list(keys)) for _, keys in rows)


def _row(keys: list[Key]) -> str:
    first = keys[0]
    section = "`[SERVICE]`" if first.section == SERVICE else f"`[{first.section}]`"
    names = ", ".join("all others" if one.name == ANY else f"`{one.name}`" for one in keys)
    return f"| {section} | {names} | {first.effect.value} | {first.meaning} |\n"


def with_table(document: str) -> str:
    """Return the document with this table in place of the one between the marks."""
    before, rest = document.split(_BEGIN, 1)
    return before + _BEGIN + table() + _END + rest.split(_END, 1)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
