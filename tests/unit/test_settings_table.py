"""The documentation's table of settings is what the code says."""

from __future__ import annotations

from scripts.settings_table import DOCUMENT, with_tables


def test_the_documented_settings_are_those_of_the_code() -> None:
    """`make fix` writes the table; whoever changes a setting must run it."""
    assert DOCUMENT.read_text() == with_tables(DOCUMENT.read_text())
