"""The results of one call or session, which the engine delivers from threads of its own while a task reads them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import Item

MAX_WAITING_BYTES: Final = 32 * 2**20  # of results that the caller has not read

_OVERHEAD: Final = 500  # bytes of a result besides its data, so that empty ones are bounded as well


class Results:
    """The results that wait for their caller.

    ``deliver`` and ``fail`` may be called from any thread and never wait: an engine that serves several sessions by one
    thread must not wait for the slowest caller. A session whose caller reads too slowly fails instead.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Sequence[Item], int]] = deque()  # with their sizes
        self._bytes = 0
        self._failure: BaseException | None = None
        self._closed = False  # no more results are taken
        self._changed = asyncio.Event()

    def deliver(self, items: Sequence[Item]) -> bool:
        """Add a result; return False if none is wanted any more."""
        size = _OVERHEAD + sum(len(item.data) + _OVERHEAD for item in items)
        with self._lock:
            if self._closed:
                return False
            if self._waiting and self._bytes + size > MAX_WAITING_BYTES:
                self._failure = CallFailed(
                    Category.RATE_LIMITED, f"the caller reads too slowly: {self._bytes} bytes of results wait for it"
                )
                self._closed = True
            else:
                self._waiting.append((items, size))
                self._bytes += size
        self._wake()
        return not self._closed

    def fail(self, error: BaseException) -> bool:
        """End the results with an error, which is raised after those that came before it."""
        with self._lock:
            if self._closed:
                return False
            self._failure = error
            self._closed = True
        self._wake()
        return True

    def close(self) -> None:
        """Take no more results, because the call has ended."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._bytes = 0

    async def next(self) -> Sequence[Item]:
        """Wait for the next result. Raises the error that ended them."""
        while True:
            self._changed.clear()
            with self._lock:
                if self._waiting:
                    items, size = self._waiting.popleft()
                    self._bytes -= size
                    return items
                if self._failure is not None:
                    raise self._failure
            await self._changed.wait()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._changed.set)


class Streams:
    """Whether the streams of a call's results, or of its inputs, have ended: one for each key."""

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}

    def feed(self, items: Sequence[Item]) -> bool:
        """Note the status of each item; return whether all streams that have begun are over."""
        for item in items:
            self._open[item.key] = item.status not in (kinds.END, kinds.ONCE)
        return self.over

    @property
    def over(self) -> bool:
        return bool(self._open) and not any(self._open.values())


class Pieces:
    """Results that are returned together, with the data of each key joined."""

    def __init__(self) -> None:
        self._found: dict[str, list[Item]] = {}
        self._bytes = 0

    def add(self, items: Sequence[Item]) -> None:
        """Add results. Raises CallFailed for more than one frame can hold."""
        self._bytes += sum(len(item.data) for item in items)
        if self._bytes > frames.LARGEST:
            raise codes.failed(codes.INVALID_OUTPUT, f"the engine's results have more than {frames.LARGEST} bytes")
        for item in items:
            self._found.setdefault(item.key, []).append(item)

    def joined(self) -> list[Item]:
        return [_joined(pieces) for pieces in self._found.values()]


async def whole(results: Results) -> list[Item]:
    """Return all results of a call, with the data of each key joined. Raises the error that ended them."""
    streams = Streams()
    found = Pieces()
    while True:
        items = await results.next()
        found.add(items)
        if streams.feed(items) or not items:
            return found.joined()


def _joined(pieces: Sequence[Item]) -> Item:
    first, *more = pieces
    if not more:
        return first
    attributes = {name: value for piece in pieces for name, value in piece.attributes.items()}
    return Item(first.key, b"".join(piece.data for piece in pieces), first.kind, kinds.ONCE, attributes)
