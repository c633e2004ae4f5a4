"""Figures, and their output as tables and JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_BEGIN = "<!-- figures of {}, written by: python -m benchmarks --document docs/performance.md -->"
_END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number, with its promised bound, if there is one."""

    scenario: str
    value: float
    unit: str
    promise: float | None = None
    at_most: bool = False  # the promise is an upper bound
    note: str = ""
    group: str = "jobs"  # the table that it belongs to

    @property
    def kept(self) -> bool | None:
        if self.promise is None:
            return None
        return self.value <= self.promise if self.at_most else self.value >= self.promise


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of samples in seconds, shown in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        ordered = sorted(samples)
        return cls(*(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.50, 0.99)))

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"


def machine() -> str:
    """Describe the machine in words."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{os.cpu_count()} cores ({model}), {memory / 2**20:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def show(figures: Sequence[Figure], *, json_path: Path | None) -> None:
    """Print the table, and write the figures as JSON if a path is given."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(title=f"Penstock on {machine()}", title_justify="left", caption_justify="left")
    for name in ("scenario", "measured", "promised", "", "note"):
        table.add_column(name, justify="right" if name in {"measured", "promised"} else "left")
    for figure in figures:
        promised = "" if figure.promise is None else f"{'≤' if figure.at_most else '≥'} {_number(figure.promise)}"
        mark = {None: "", True: "kept", False: "NOT KEPT"}[figure.kept]
        table.add_row(figure.scenario, f"{_number(figure.value)} {figure.unit}", promised, mark, figure.note)
    console.print(table)
    if json_path is not None:
        record = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
        json_path.write_text(json.dumps(record, indent=2) + "\n")


def write_document(figures: Sequence[Figure], document: Path) -> None:
    """Write the tables of the groups that were measured into the document, each between its markers."""
    text = document.read_text()
    for group in dict.fromkeys(figure.group for figure in figures):
        begin = _BEGIN.format(group)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(_END)
        if not found or not ended:
            raise SystemExit(f"{document} has no place for figures of {group}: {begin} … {_END}")
        table = _table([figure for figure in figures if figure.group == group])
        text = f"{before}{begin}\n\n{table}\n\n{_END}{after}"
    document.write_text(text)


def _table(figures: Sequence[Figure]) -> str:
    rows = [
        f"| {figure.scenario} | {_number(figure.value)} {figure.unit} | {_promise(figure)} | {figure.note} |"
        for figure in figures
    ]
    head = ["| scenario | measured | promised | spread |", "| --- | --- | --- | --- |"]
    return "\n".join([f"Measured on {machine()}.", "", *head, *rows])


def _promise(figure: Figure) -> str:
    if figure.promise is None:
        return ""
    return f"{'≤' if figure.at_most else '≥'} {_number(figure.promise)}{'' if figure.kept else ', **not kept**'}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
