"""Reports of an executor that are not stored yet: progress, chunks of output and log lines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from penstock.jobs.output import MAX_BYTES, MAX_ENTRIES
from penstock.jobs.work import LogLine

MAX_CHUNK_BYTES = MAX_BYTES - 1024  # bytes of one chunk, so that it fits in a heartbeat
_MAX_PARCEL_BYTES = 900 * 1024  # bytes of entries, each with its comma, in one heartbeat; but at least one chunk
_MAX_UNSENT_BYTES = 10 * 2**20  # bytes of unsent chunks beyond which an executor should wait
_MAX_LINES = 5000  # unsent lines; one heartbeat can carry them all
_MAX_LINE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The part of an outbox that one heartbeat carries."""

    progress: Raw | None
    chunks: list[Raw]
    chunks_from: int
    lines: list[LogLine]
    lines_from: int
    size: int  # bytes

    @property
    def fields(self) -> dict[str, Any]:
        """Return the parcel as fields of a heartbeat."""
        return {
            "progress": UNSET if self.progress is None else self.progress,
            "chunks": self.chunks or UNSET,
            "chunks_from": self.chunks_from if self.chunks else UNSET,
            "logs": self.lines or UNSET,
            "logs_from": self.lines_from if self.lines else UNSET,
        }


class Outbox:
    """Keeps reported output, numbered within the attempt, until it is known to be stored.

    ``changed`` is called when there is something to send. Chunks are never dropped; ``room`` waits while too many are
    unsent. When too many lines are unsent, new ones are dropped, and a line states how many. After ``close`` nothing
    more is accepted.
    """

    __slots__ = (
        "_changed",
        "_chunk_bytes",
        "_chunks",
        "_chunks_from",
        "_dropped",
        "_line_bytes",
        "_lines",
        "_lines_from",
        "_progress",
        "_relieved",
        "closed",
    )

    def __init__(self, changed: Callable[[], None]) -> None:
        self.closed = False
        self._changed = changed
        self._progress: Raw | None = None
        self._chunks: deque[Raw] = deque()
        self._chunks_from = 0
        self._chunk_bytes = 0
        self._lines: deque[tuple[LogLine, int]] = deque()
        self._lines_from = 0
        self._line_bytes = 0
        self._dropped = 0  # lines dropped since the last accepted one
        self._relieved = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return self._progress is not None or bool(self._chunks) or bool(self._lines)

    def put_progress(self, value: Raw) -> None:
        """Keep the newest progress; an earlier one that was not sent is dropped."""
        if not self.closed:
            self._progress = value
            self._changed()

    def put_chunk(self, chunk: Raw) -> None:
        if not self.closed:
            self._chunks.append(chunk)
            self._chunk_bytes += len(chunk)
            self._changed()

    def put_line(self, line: LogLine) -> None:
        if self.closed:
            return
        if len(self._lines) >= _MAX_LINES or self._line_bytes >= _MAX_LINE_BYTES:
            self._dropped += 1
            return
        self._report_dropped()
        self._append(line)
        self._changed()

    def close(self) -> None:
        """Accept nothing more, and release callers that wait in ``room``."""
        if not self.closed:
            self._report_dropped()
            self.closed = True
            self._relieved.set()

    def clear(self) -> None:
        """Drop everything unsent, because it was refused."""
        self.close()
        self._progress = None
        self._chunks.clear()
        self._lines.clear()

    @property
    def crowded(self) -> bool:
        """Whether too many chunks are unsent."""
        return self._chunk_bytes > _MAX_UNSENT_BYTES and not self.closed

    async def room(self) -> None:
        """Wait while it is crowded."""
        while self.crowded:
            self._relieved.clear()
            await self._relieved.wait()

    def parcel(self) -> Parcel:
        """Return what the next heartbeat should carry; it is kept here until it is ``stored``."""
        lines = [line for line, _ in self._lines]
        size = self._line_bytes
        if self._chunks and size + len(self._chunks[0]) + 1 > _MAX_PARCEL_BYTES:  # alone, or it might wait for ever
            lines, size = [], 0
        chunks: list[Raw] = []
        for chunk in self._chunks:
            reached = size + len(chunk) + 1
            if (chunks and reached > _MAX_PARCEL_BYTES) or len(chunks) + len(lines) == MAX_ENTRIES:
                break
            chunks.append(chunk)
            size = reached
        return Parcel(
            progress=self._progress,
            chunks=chunks,
            chunks_from=self._chunks_from,
            lines=lines,
            lines_from=self._lines_from,
            size=size + (len(self._progress) if self._progress is not None else 0),
        )

    def stored(self, parcel: Parcel) -> None:
        """Drop the content of a stored parcel. Parcels may overlap and be stored in any order."""
        if self._progress is parcel.progress:
            self._progress = None
        while self._chunks and self._chunks_from < parcel.chunks_from + len(parcel.chunks):
            self._chunk_bytes -= len(self._chunks.popleft())
            self._chunks_from += 1
        while self._lines and self._lines_from < parcel.lines_from + len(parcel.lines):
            _, size = self._lines.popleft()
            self._line_bytes -= size
            self._lines_from += 1
        if self._chunk_bytes <= _MAX_UNSENT_BYTES:
            self._relieved.set()

    def _append(self, line: LogLine) -> None:
        size = len(msgspec.json.encode(line)) + 1
        self._lines.append((line, size))
        self._line_bytes += size

    def _report_dropped(self) -> None:
        if self._dropped:
            count, self._dropped = self._dropped, 0
            message = f"{count} lines were dropped here: they came faster than they were stored"
            self._append(LogLine(time=datetime.now(UTC), level="warning", message=message))
