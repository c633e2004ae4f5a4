"""A model's log: the newest lines of all its replicas, kept in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from penstock.masking import Masker

MAX_LINE: Final = 16 * 1024  # characters
LEVELS: Final = ("debug", "info", "warning", "error")
_MOST_LINES: Final = 10_000
_MOST_BYTES: Final = 8 * 2**20
_BEHIND: Final = 5000  # how many lines a follower may fall behind before it misses some


class LogEntry(Struct, frozen=True, kw_only=True):
    """One line."""

    seq: int  # grows by one; gaps mean that lines were dropped
    time: datetime
    level: str  # "debug", "info", "warning", "error"
    message: str
    version: str
    replica: str  # "r1", "r2", …; empty: the host wrote it
    request_id: str | None = None


class Wanted(Struct, frozen=True, kw_only=True):
    """A filter of lines. Every stated field must match."""

    since: datetime | None = None  # inclusive
    until: datetime | None = None  # exclusive
    level: str | None = None  # this one or worse
    request_id: str | None = None
    version: str | None = None

    def matches(self, entry: LogEntry) -> bool:
        """Return whether a line matches."""
        return (
            (self.since is None or entry.time >= self.since)
            and (self.until is None or entry.time < self.until)
            and (self.level is None or LEVELS.index(entry.level) >= LEVELS.index(self.level))
            and (self.request_id is None or entry.request_id == self.request_id)
            and (self.version is None or entry.version == self.version)
        )


class Logbook:
    """The newest lines of one model; the oldest are dropped first. Known secrets are masked when a line is added."""

    def __init__(self) -> None:
        self._entries: deque[LogEntry] = deque()
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._followers: set[asyncio.Queue[LogEntry]] = set()
        self._secrets = Masker()

    def hide(self, secrets: Sequence[str]) -> None:
        """Mask these values from now on."""
        self._secrets.add(secrets)

    def masked(self, text: str) -> str:
        """Return ``text`` without the known secrets."""
        return self._secrets.text(text)

    def add(
        self, level: str, message: str, *, version: str, replica: str = "", request_id: str | None = None
    ) -> LogEntry:
        """Write a line."""
        entry = LogEntry(
            seq=next(self._numbers),
            time=datetime.now(UTC),
            level=level if level in LEVELS else "info",
            message=self.masked(message),
            version=version,
            replica=replica,
            request_id=request_id or None,
        )
        self._entries.append(entry)
        self._bytes += len(entry.message) + 100
        while len(self._entries) > _MOST_LINES or self._bytes > _MOST_BYTES:
            self._bytes -= len(self._entries.popleft().message) + 100
        for follower in self._followers:
            if follower.full():
                follower.get_nowait()
            follower.put_nowait(entry)
        return entry

    def clear(self) -> int:
        """Remove all lines; returns how many there were."""
        count = len(self._entries)
        self._entries.clear()
        self._bytes = 0
        return count

    def newest(self, wanted: Wanted, limit: int) -> list[LogEntry]:
        """Return the newest ``limit`` lines that match, oldest first."""
        found: Iterator[LogEntry] = (entry for entry in reversed(self._entries) if wanted.matches(entry))
        return list(itertools.islice(found, limit))[::-1]

    async def follow(self, wanted: Wanted, limit: int) -> AsyncIterator[LogEntry]:
        """Yield the newest lines that match, then new ones as they are written, without end."""
        queue: asyncio.Queue[LogEntry] = asyncio.Queue(_BEHIND)
        self._followers.add(queue)
        try:
            last = 0
            for entry in self.newest(wanted, limit):
                last = entry.seq
                yield entry
            while True:
                entry = await queue.get()
                if entry.seq > last and wanted.matches(entry):
                    yield entry
        finally:
            self._followers.discard(queue)
