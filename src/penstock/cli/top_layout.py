"""Fit tables and sections into a terminal, and name what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_GAP: Final = 2  # columns between two columns
_NARROW: Final = 100  # columns of a terminal below which bars are short
_BAR: Final = (4, 12)  # blocks of a bar, in a narrow and in a wide terminal


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Where a table is too wide, columns are left out, those of the highest ``rank`` first, but none of
    rank 0; a column with ``least`` may shrink to that many characters."""

    name: str
    rank: int = 0
    least: int | None = None


class Bar:
    """A fraction as a bar and a percentage; the bar has as many blocks as the terminal has space for."""

    def __init__(self, share: float) -> None:
        self._share = min(max(share, 0.0), 1.0)

    def drawn(self, width: int) -> Text:
        blocks = _BAR[width >= _NARROW]
        full = round(self._share * blocks)
        style = "green" if self._share < 0.7 else "yellow" if self._share < 0.9 else "red"
        percent = f" {100 * self._share:3.0f} %"
        return Text.assemble(("█" * full, style), ("░" * (blocks - full), "dim"), percent)


class FittedTable:
    """A table that leaves out its least important columns where it is too wide, and names them below itself."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Text | Bar]]) -> None:
        self._columns = columns
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[one.drawn(options.max_width) if isinstance(one, Bar) else one for one in row] for row in self._rows]
        widths = [
            max(len(column.name), *(row[index].cell_len for row in cells)) for index, column in enumerate(self._columns)
        ]
        kept = self._fitting(widths, options.max_width)
        flexible = [index for index in kept if self._columns[index].least is not None]
        spare = options.max_width - sum(widths[index] + _GAP for index in kept if index not in flexible)
        shrunk = _shared(spare - _GAP * len(flexible), [widths[index] for index in flexible])
        final = dict(zip(flexible, shrunk, strict=True))
        table = Table(box=None, header_style="bold dim", pad_edge=False, padding=(0, _GAP, 0, 0))
        for index in kept:
            width = max(final.get(index, widths[index]), 1)
            table.add_column(self._columns[index].name, no_wrap=True, overflow="ellipsis", width=width)
        for row in cells:
            table.add_row(*(row[index] for index in kept))
        yield table
        left_out = [column.name for index, column in enumerate(self._columns) if index not in kept]
        if left_out:
            text = f"… without {', '.join(left_out)} ({sum(widths) + _GAP * len(widths)} columns show all)"
            yield Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def _fitting(self, widths: Sequence[int], space: int) -> list[int]:
        """Return the columns that fit, in order: the least important go first."""
        least = [
            width if column.least is None else min(width, column.least)
            for width, column in zip(widths, self._columns, strict=True)
        ]
        kept = list(range(len(widths)))
        for index in sorted(kept, key=lambda one: (self._columns[one].rank, one), reverse=True):
            if sum(least[one] + _GAP for one in kept) <= space or self._columns[index].rank == 0:
                break
            kept.remove(index)
        return kept


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a frame, which is cut where the terminal is too low."""

    name: str
    content: Sequence[RenderableType]


class Frame:
    """A title and sections, in at most ``height`` lines; None: in as many as they need.

    The height is not taken from the console's options, because a live display passes options without a height.
    """

    def __init__(self, title: Text, sections: Sequence[Section], *, height: int | None) -> None:
        self._title = title
        self._sections = sections
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = options.update(height=None)
        parts = [
            [line for one in section.content for line in console.render_lines(one, whole, pad=False)]
            for section in self._sections
        ]
        self._title.no_wrap, self._title.overflow = True, "ellipsis"
        title = console.render_lines(self._title, whole, pad=False)
        lines = [*title, *(line for part in parts for line in ([], *part))]
        if self._height is not None and len(lines) > self._height:
            cut = self._cut(parts, self._height - len(title))
            lines = [*title, *(self._drawn(console, whole, line) for line in cut)][: self._height]
        for line in lines:
            yield from line
            yield Segment.line()

    def _cut(self, parts: Sequence[list[list[Segment]]], space: int) -> Iterator[list[Segment] | str]:
        """Yield the lines that fit: small sections as a whole, and an equal share of each large one, followed by how
        much of it is left out."""
        shown = len(parts) if len(parts) <= space else max(space - 1, 0)
        shares = _shared(space if shown == len(parts) else space - 1, [len(one) for one in parts[:shown]])
        for section, part, share in zip(self._sections[:shown], parts[:shown], shares, strict=True):
            if len(part) <= share:
                yield from part
            else:
                yield from part[: share - 1]
                yield f"… {len(part) - max(share - 1, 0)} more lines of {section.name}"
        if shown < len(parts):
            yield f"… and {', '.join(one.name for one in self._sections[shown:])}"

    @staticmethod
    def _drawn(console: Console, options: ConsoleOptions, line: list[Segment] | str) -> list[Segment]:
        if isinstance(line, list):
            return line
        text = Text(line, style="dim", no_wrap=True, overflow="ellipsis")
        return console.render_lines(text, options, pad=False)[0]


def _shared(space: int, wanted: Sequence[int]) -> list[int]:
    """Divide ``space``: small requests are met in full, and the others share the rest equally."""
    shares = [0] * len(wanted)
    left = max(space, 0)
    for place, index in enumerate(sorted(range(len(wanted)), key=lambda one: wanted[one])):
        shares[index] = min(wanted[index], left // (len(wanted) - place))
        left -= shares[index]
    return shares
