"""The writing half of a connection: hands bytes to the socket and waits while too many of them have not been sent."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from datetime import timedelta
from typing import Final

from penstock.web.body import Disconnected

_INT: Final = struct.Struct("i")


class Writer:
    """Bytes on their way to one client. ``sent_at`` is when a stream last handed some to the socket."""

    __slots__ = ("_loop", "_room", "_taken", "_window_at", "sent_at", "transport", "written")

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop = loop
        self._room: asyncio.Future[None] | None = None  # while the write buffer is full
        self.written = 0  # bytes written since the connection was opened
        self._window_at: float | None = None  # the rate at which the client takes bytes is measured since then
        self._taken = 0  # bytes that the client had taken at that time
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

    def is_too_slow(self, now: float, *, rate: int, window: timedelta) -> bool:
        """Return whether the client takes fewer than ``rate`` bytes a second while bytes wait for it.

        The rate is measured in windows, which begin when bytes are found waiting. Must be called about every second.
        """
        waiting = self.unsent()
        if waiting == 0:
            self._window_at = None
            return False
        if self._window_at is not None and now - self._window_at < window.total_seconds():
            return False
        taken = self.written - waiting - _unacknowledged(self.transport)
        slow = self._window_at is not None and taken - self._taken < rate * window.total_seconds()
        self._window_at, self._taken = now, taken
        return slow


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return how many bytes the system holds because the other end has not acknowledged them."""
    socket = transport.get_extra_info("socket")
    try:
        held: tuple[int] = _INT.unpack(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
    except (AttributeError, OSError, ValueError):  # it is closing, or the system does not count them
        return 0
    return held[0]
