"""Writes the table of settings into docs/operations.md, from what the code says; ``make fix`` runs it."""

from __future__ import annotations

from pathlib import Path

from penstock.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
_HEAD = "| variable | default | meaning |\n| --- | --- | --- |\n"
# Defaults that depend on the machine, or on another variable.
_WORDS = {
    "HTTP_HOST": "`0.0.0.0`; without a token `127.0.0.1`",
    "WORKER_ID": "the host's name",
    "PENSTOCK_DATA_DIR": "the platform's user data folder",
    "PENSTOCK_URL": "`http://127.0.0.1:8080`",
}


def table() -> str:
    """The table, with one row per variable."""
    defaults = Settings.model_construct().masked()
    return _HEAD + "".join(
        f"| `{name}` | {_WORDS.get(name, _shown(defaults[name]))} | {meaning} |\n"
        for name, meaning in Settings.descriptions().items()
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def with_table(document: str) -> str:
    """The document with its last table, which is this one, written anew."""
    return document[: document.index(_HEAD)] + table()


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
