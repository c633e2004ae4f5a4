"""Writes the tables of settings into docs/operations.md, from what the code says; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.settings.printing import printable
from penstock.settings.settings import GROUPS
from penstock.settings.variable import Variable, variables

DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
_BEGIN = "<!-- settings: written by `make fix` -->\n"
_HEAD = "| variable | default | meaning |\n| --- | --- | --- |\n"


def tables() -> str:
    """Return one table per group, with one row per variable."""
    return "".join(f"\n### {_title(group)}\n\n{_HEAD}{_rows(group)}" for group in GROUPS)


def _title(group: type) -> str:
    return (group.__doc__ or "").removesuffix(".")


def _rows(group: type) -> str:
    return "".join(
        f"| `{name.upper()}` | {_default(name, variable)} | {variable.meaning} |\n"
        for name, variable in variables(group).items()
    )


def _default(name: str, variable: Variable) -> str:
    if variable.derived is not None:
        return variable.derived_meaning
    shown = printable(name, variable.default)
    if shown is None:
        return ""
    return f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def with_tables(document: str) -> str:
    """Return the document with these tables in place of those that follow the mark."""
    return document[: document.index(_BEGIN)] + _BEGIN + tables()


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
