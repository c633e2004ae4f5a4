"""Writes the table of Athena's codes into docs/athena/protocol.md, from what the code says; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.athena.protocol.codes import TABLE

DOCUMENT = Path(__file__).parents[1] / "docs" / "athena" / "protocol.md"
_BEGIN = "<!-- codes: written by `make fix` -->\n"
_END = "<!-- end of codes -->\n"
_HEAD = "| code | HTTP status | meaning |\n| --- | --- | --- |\n"


def table() -> str:
    """Return the table, one row per code and meaning."""
    return _HEAD + "".join(f"| {one.number} | {one.status} | {one.meaning} |\n" for one in TABLE)


def with_table(document: str) -> str:
    """Return the document with this table in place of the one between the marks."""
    before, rest = document.split(_BEGIN, 1)
    return before + _BEGIN + table() + _END + rest.split(_END, 1)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
