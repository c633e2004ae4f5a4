"""The body of one request, as it arrives: what the connection has received and the handler has not read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Disconnected(Exception):
    """The client has closed the connection; nothing can be sent to it."""


class Body:
    """Chunks on their way from a connection to one handler.

    ``on_read`` is called before a handler takes or awaits bytes: the connection then resumes reading, or sends
    ``100 Continue``.
    """

    __slots__ = ("_chunks", "_error", "_on_read", "_waiter", "buffered", "complete")

    def __init__(self, on_read: Callable[[], None] | None = None) -> None:
        self._chunks: deque[bytes] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_read = on_read
        self.buffered = 0  # bytes
        self.complete = False  # whether all of it was received

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Return the body of a request that was received whole."""
        body = cls()
        if data:
            body.feed(data)
        body.complete = True
        return body

    # The connection's side

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.buffered += len(chunk)
        self._wake()

    def end(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Raise ``error`` in the handler once it has read what was received."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The handler's side

    async def read(self) -> bytes:
        """Return the next chunk, empty at the end; raises Disconnected, or Refused for a body that is not valid."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            if self._on_read is not None:
                self._on_read()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self.buffered -= len(chunk)
        if self._on_read is not None and not self.complete:
            self._on_read()
        return chunk
