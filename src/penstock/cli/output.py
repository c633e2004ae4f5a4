"""How commands show what they found: tables for people on a terminal, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; this is also what a pipe gets.")]


def wants_json(asked: bool) -> bool:
    """Whether to print JSON: asked for, or standard output is not a terminal."""
    return asked or not sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own, at once: one of a stream."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; None is an empty cell. Nothing is cut or broken: what is too wide, the terminal wraps."""
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
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console()
    wide = console.options.update(width=10_000)
    Console(width=max(console.width, Measurement.get(console, wide, table).maximum)).print(table)
