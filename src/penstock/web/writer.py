"""The writing half of a connection: hands bytes to the socket and waits while too many of them have not been sent."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from penstock.web.body import Disconnected


class Writer:
    """Bytes on their way to one client. ``sent_at`` is when a stream last handed some to the socket."""

    __slots__ = ("_flushed", "_loop", "_progress_at", "_room", "sent_at", "transport", "written")

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop = loop
        self._room: asyncio.Future[None] | None = None  # while the write buffer is full
        self.written = 0  # bytes written since the connection was opened
        self._flushed = 0
        self._progress_at = now
        self.sent_at = now

    @property
    def is_full(self) -> bool:
        """Whether the write buffer is above its limit."""
        return self._room is not None

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket without waiting, unless it is closing."""
        if not self.transport.is_closing():
            self.written += len(data)
            self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """Write a part of a response and wait until the client has room for more; raises Disconnected."""
        if self.transport.is_closing():
            raise Disconnected
        self.written += len(data)
        self.transport.write(data)
        self.sent_at = self._loop.time()
        if self._room is not None:
            await self.room()

    async def room(self) -> None:
        """Wait until the write buffer has room; raises Disconnected."""
        while self._room is not None:
            await asyncio.shield(self._room)
        if self.transport.is_closing():
            raise Disconnected

    # Called by the connection

    def fill(self) -> None:
        """Note that the write buffer is full."""
        if self._room is None:
            self._room = self._loop.create_future()

    def release(self) -> None:
        """Note that the write buffer has room again, or that the connection is closed."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def unsent(self) -> int:
        """Return how many bytes were handed to the socket and are still in this process."""
        return self.transport.get_write_buffer_size()

    def is_stalled(self, now: float, timeout: timedelta) -> bool:
        """Return whether bytes wait and none were sent for ``timeout``. Must be called about every second."""
        waiting = self.unsent()
        flushed = self.written - waiting
        if waiting == 0 or flushed != self._flushed:
            self._flushed, self._progress_at = flushed, now
            return False
        return now - self._progress_at > timeout.total_seconds()
