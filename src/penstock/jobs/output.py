"""The output of a running job, chunks and log lines, and how much of it one heartbeat may carry.

Both are numbered within the attempt from 0. A heartbeat gives the numbers of its first ones, so that nothing is stored
twice when it is sent again because its response was lost.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from penstock.errors import InvalidInput, TooLarge
from penstock.jobs.work import Heartbeat, LogLine

MAX_ENTRIES = 10_000  # chunks and lines of one heartbeat
MAX_BYTES = 2**20  # of their JSON
MAX_PROGRESS_BYTES = 64 * 1024  # bytes of its JSON

_lines = msgspec.json.Encoder()


def carries_output(beat: Heartbeat) -> bool:
    """Return whether the heartbeat carries chunks or lines."""
    return bool(beat.chunks) or bool(beat.logs)


def chunks_of(beat: Heartbeat) -> list[Raw]:
    return beat.chunks if isinstance(beat.chunks, list) else []


def lines_of(beat: Heartbeat) -> list[LogLine]:
    return beat.logs if isinstance(beat.logs, list) else []


def first_of(number: int | UnsetType) -> int:
    return number if isinstance(number, int) else 0


def span(first: int | UnsetType, count: int) -> tuple[int, int]:
    """Return the numbers of a heartbeat's entries, from the first to one past the last; (0, 0) for none."""
    return (first_of(first), first_of(first) + count) if count else (0, 0)


def joined(chunks: list[Raw]) -> Raw | None:
    """Return the chunks as one JSON array, each exactly as it was sent; None when there are none."""
    return Raw(b"[%b]" % b",".join(chunks)) if chunks else None


def encoded(lines: list[LogLine]) -> Raw | None:
    """Return the lines as one JSON array; None when there are none."""
    return Raw(_lines.encode(lines)) if lines else None


def size(beat: Heartbeat) -> int:
    """Return the bytes of JSON that a heartbeat carries, including its progress."""
    if beat.progress is UNSET and not carries_output(beat):
        return 0
    progress = len(beat.progress) if isinstance(beat.progress, Raw) else 0
    return progress + _output_size(beat)


def check(beat: Heartbeat, prefix: str = "") -> None:
    """Raise InvalidInput for entries without a number, or more of them than one heartbeat may carry.

    Raises TooLarge for progress that is too large.
    """
    if isinstance(beat.progress, Raw) and len(beat.progress) > MAX_PROGRESS_BYTES:
        raise TooLarge(f"{prefix}progress has {len(beat.progress)} bytes; at most {MAX_PROGRESS_BYTES} are allowed")
    if not carries_output(beat):
        return
    for name, first in (("chunks", beat.chunks_from), ("logs", beat.logs_from)):
        if getattr(beat, name) and first is UNSET:
            raise InvalidInput.of(
                f"{prefix}{name}_from", f"is required with {name}: the number of the first one in this attempt, from 0"
            )
    blamed = f"{prefix}chunks" if beat.chunks else f"{prefix}logs"
    count = len(chunks_of(beat)) + len(lines_of(beat))
    if count > MAX_ENTRIES:
        raise InvalidInput.of(
            blamed,
            f"with chunks and logs together, {count} were sent; at most {MAX_ENTRIES} are allowed in one heartbeat",
        )
    size_bytes = _output_size(beat)
    if size_bytes > MAX_BYTES:
        raise InvalidInput.of(
            blamed, f"chunks and logs have {size_bytes} bytes; at most {MAX_BYTES} are allowed in one heartbeat"
        )
    for index, line in enumerate(lines_of(beat)):
        if not _has_every_zone(line.time):
            raise InvalidInput.of(f"{prefix}logs[{index}].time", "must lie in the years 2 to 9998")


def _output_size(beat: Heartbeat) -> int:
    chunks, lines = chunks_of(beat), lines_of(beat)
    return sum(map(len, chunks)) + (len(_lines.encode(lines)) if lines else 0)


def _has_every_zone(moment: datetime) -> bool:
    """Return whether the time can be expressed in every time zone."""
    return 1 < moment.year < 9999
