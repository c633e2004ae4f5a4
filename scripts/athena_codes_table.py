"""Writes the table of Athena's codes into docs/athena/protocol.md, in English and Chinese; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.athena.protocol.codes import TABLE
from scripts.chinese import CODES
from scripts.marked_tables import MarkedTable

_FOLDER = Path(__file__).parents[1] / "docs" / "athena"
DOCUMENT = _FOLDER / "protocol.md"
CHINESE_DOCUMENT = _FOLDER / "zh" / "protocol.md"
PLACE = MarkedTable("codes")
_RULE = "| --- | --- | --- |\n"


def table() -> str:
    """Return the table, one row per code and meaning."""
    rows = "".join(f"| {one.number} | {one.status} | {one.meaning} |\n" for one in TABLE)
    return "| code | HTTP status | meaning |\n" + _RULE + rows


def chinese_table() -> str:
    """Return the table in Chinese."""
    rows = "".join(f"| {one.number} | {one.status} | {CODES[one.meaning]} |\n" for one in TABLE)
    return "| 错误码 | HTTP 状态码 | 含义 |\n" + _RULE + rows


if __name__ == "__main__":
    PLACE.write(DOCUMENT, table())
    PLACE.write(CHINESE_DOCUMENT, chinese_table())
