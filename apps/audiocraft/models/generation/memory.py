"""How much main memory this process may still take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CACHE: Final = ("active_file", "inactive_file")  # of files, which the kernel gives up when memory is short


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that the machine and the control group of this process leave; None where they are not known."""
    known = (one for one in (_of_machine(root / "proc/meminfo"), _of_group(root / "sys/fs/cgroup")) if one is not None)
    return min(known, default=None)


def _of_machine(file: Path) -> int | None:
    try:
        return _numbers(file)["MemAvailable:"] * 1024
    except (OSError, ValueError, KeyError):
        return None  # no Linux


def _of_group(folder: Path) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no limit
    try:
        parts = _numbers(folder / "memory.stat")
    except (OSError, ValueError):
        parts = {}
    return limit - used + sum(parts.get(name, 0) for name in _CACHE)


def _numbers(file: Path) -> dict[str, int]:
    """Return the first number of each line, by the word before it."""
    rows = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
