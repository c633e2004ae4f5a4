"""The documentation's table of settings agrees with the code."""

from __future__ import annotations

from scripts.settings_table import DOCUMENT, with_tables


def test_the_documented_settings_are_those_of_the_code() -> None:
    """`make fix` writes the table; run it after changing a setting."""
    assert DOCUMENT.read_text() == with_tables(DOCUMENT.read_text())
