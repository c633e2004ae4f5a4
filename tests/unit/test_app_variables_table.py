"""The documentation's table of the variables of a deployed app agrees with the files that are written."""

from __future__ import annotations

from scripts.app_variables_table import DOCUMENT, PLACE, table


def test_the_documented_variables_are_those_of_the_file() -> None:
    """`make fix` writes the table; run it after changing a variable."""
    assert DOCUMENT.read_text() == PLACE.replaced(DOCUMENT.read_text(), table())
