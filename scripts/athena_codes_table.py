"""Writes the table of Athena's codes into docs/athena/protocol.md, in English and Chinese; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.athena.protocol.codes import TABLE
from scripts.chinese import CODES

_FOLDER = Path(__file__).parents[1] / "docs" / "athena"
DOCUMENT = _FOLDER / "protocol.md"
CHINESE_DOCUMENT = _FOLDER / "zh" / "protocol.md"
_BEGIN = "<!-- codes: written by `make fix` -->\n"
_END = "<!-- end of codes -->\n"
_RULE = "| --- | --- | --- |\n"


def table() -> str:
    """Return the table, one row per code and meaning."""
    rows = "".join(f"| {one.number} | {one.status} | {one.meaning} |\n" for one in TABLE)
    return "| code | HTTP status | meaning |\n" + _RULE + rows


def chinese_table() -> str:
    """Return the table in Chinese."""
    rows = "".join(f"| {one.number} | {one.status} | {CODES[one.meaning]} |\n" for one in TABLE)
    return "| 错误码 | HTTP 状态码 | 含义 |\n" + _RULE + rows


def with_table(document: str, table: str) -> str:
    """Return the document with this table in place of the one between the marks."""
    before, rest = document.split(_BEGIN, 1)
    return before + _BEGIN + table + _END + rest.split(_END, 1)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), table()))
    CHINESE_DOCUMENT.write_text(with_table(CHINESE_DOCUMENT.read_text(), chinese_table()))
