"""The output of commands: tables for people on a terminal, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; the default if the output is a pipe.")]


def wants_json(as_json: bool) -> bool:
    """Return whether to print JSON: by ``--json``, or because standard output is not a terminal."""
    return as_json or not sys.stdout.isatty()


def harmless(text: str, *, lines: bool = False) -> str:
    """Return ``text`` without characters that would move a terminal's cursor or rename its window. ``lines`` keeps line
    breaks."""
    return "".join(
        letter if letter.isprintable() or (lines and letter in "\n\t") else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def local_time(moment: datetime) -> str:
    """Return a time for people, in the time zone of this machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(_escaped(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own, at once: one of a stream."""
    sys.stdout.write(_escaped(json.dumps(value, ensure_ascii=False, default=str)) + "\n")
    sys.stdout.flush()


def _escaped(text: str) -> str:
    """Return JSON in which control characters that JSON allows in strings are escaped: some terminals obey them."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_FILLING = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)
_CONTROLS = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; None is an empty cell. Nothing is cut; the terminal wraps rows that are too wide."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    cells = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numbers = bool(cells) and all(isinstance(row[index], int | float) for row in cells)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text("" if cell is None else harmless(str(cell), lines=True)) for cell in row))
    console = Console()
    wide = console.options.update(width=10_000)
    whole = Console(width=max(console.width, Measurement.get(console, wide, table).maximum))
    with whole.capture() as printed:
        whole.print(table)
    # Blanks that fill a row up to the widest one would be wrapped into empty lines.
    console.file.write(_FILLING.sub("", printed.get()))
