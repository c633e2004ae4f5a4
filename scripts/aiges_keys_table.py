"""Writes the table of the keys of aiges.toml into both aiges-toml.md of docs/athena; ``make fix`` runs it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from penstock.models.aiges_keys import ANY, KEYS, SERVICE, Key
from scripts.chinese import AIGES_KEYS
from scripts.marked_tables import MarkedTable

_FOLDER = Path(__file__).parents[1] / "docs" / "athena"
DOCUMENT = _FOLDER / "aiges-toml.md"
CHINESE_DOCUMENT = _FOLDER / "zh" / "aiges-toml.md"
PLACE = MarkedTable("keys")
_RULE = "| --- | --- | --- | --- |\n"


def table() -> str:
    """Return the table, with the keys of one section, effect and meaning in one row."""
    return "| section | keys | effect | what becomes of them |\n" + _RULE + _rows(text_of=str, separator=", ")


def chinese_table() -> str:
    """Return the table in Chinese."""
    return "| 节 | 键 | 效果 | 处理方式 |\n" + _RULE + _rows(text_of=AIGES_KEYS.__getitem__, separator="、")


def _rows(*, text_of: Callable[[str], str], separator: str) -> str:
    rows = groupby(KEYS, key=lambda one: (one.section, one.effect, one.meaning))
    return "".join(_row(list(keys), text_of=text_of, separator=separator) for _, keys in rows)


def _row(keys: list[Key], *, text_of: Callable[[str], str], separator: str) -> str:
    first = keys[0]
    section = "`[SERVICE]`" if first.section == SERVICE else f"`[{first.section}]`"
    names = separator.join(text_of("all others") if one.name == ANY else f"`{one.name}`" for one in keys)
    return f"| {section} | {names} | {text_of(first.effect.value)} | {text_of(first.meaning)} |\n"


if __name__ == "__main__":
    PLACE.write(DOCUMENT, table())
    PLACE.write(CHINESE_DOCUMENT, chinese_table())
