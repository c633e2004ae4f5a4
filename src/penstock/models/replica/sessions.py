"""Sessions: calls whose input comes in parts while their output is read, as runtimes see them."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from penstock.models.replica import frames
from penstock.models.replica.runtime import Call, Cancelled, Output, Segment, Wire


@dataclass(slots=True)
class Part:
    """One part of a session's input: JSON, with null where segments stand, and its media."""

    json: bytes
    segments: Sequence[Segment] = ()


class SessionWire(Wire, Protocol):
    """Sends the reports of sessions to the host."""

    def taken(self, session: Session, size: int) -> None: ...


class Session(Call):
    """One session as a runtime sees it: a call that receives parts.

    ``input`` and ``segments`` are the first input. Parts that the model has not taken fill the session's window; while
    it is full, the host sends none. The thread or task that runs the session receives them.
    """

    __slots__ = (
        "_arrived",
        "_ended",
        "_part_window",
        "_received",
        "_reported",
        "_taken",
        "_wake_receiver",
        "read_more",
    )

    wire: SessionWire

    def __init__(
        self,
        id: int,  # noqa: A002
        input: bytes,  # noqa: A002
        segments: Sequence[Segment],
        *,
        request_id: str,
        wire: SessionWire,
        streams: bool = True,
        window: int = 0,
        part_window: int,
    ) -> None:
        super().__init__(id, input, segments, request_id=request_id, streams=streams, wire=wire, window=window)
        self.read_more: Callable[[], None] | None = None  # reads frames, in a replica that has only one thread for it
        self._arrived: deque[tuple[Part, int]] = deque()
        self._ended = False  # no more parts come
        self._part_window = part_window
        self._received = 0  # bytes of parts, written by the thread that reads frames
        self._taken = 0  # bytes of them that the model has taken, written by its thread
        self._reported = 0  # bytes of them that the host knows to be taken, written by the model's thread
        self._wake_receiver: Callable[[], object] | None = None

    def receive(self) -> Part | None:
        """Return the next part, or None after the last one. From blocking code: waits for it.

        Raises Cancelled when the caller has gone.
        """
        while not self._arrived and not self._ended and not self.cancelled:
            if self.read_more is not None:
                self.read_more()
            else:
                self._wait()
        if self.cancelled:
            raise Cancelled
        return self._next()

    async def receive_async(self) -> Part | None:
        """Return the next part from a coroutine, as ``receive`` does from blocking code."""
        while not self._arrived and not self._ended:
            came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wake_receiver = partial(_resolve, came)
            try:
                await came
            finally:
                self._wake_receiver = None
        return self._next()

    def _next(self) -> Part | None:
        if not self._arrived:
            return None
        part, size = self._arrived.popleft()
        self._taken += size
        unreported = self._taken - self._reported
        if unreported >= self._part_window // 2:
            self._reported = self._taken  # before the host can send more
            self.wire.taken(self, unreported)
        return part

    def _wait(self) -> None:
        came = threading.Event()
        self._wake_receiver = came.set
        if not self._arrived and not self._ended and not self.cancelled:  # something may have come before it was set
            came.wait()
        self._wake_receiver = None

    # For the replica

    def deliver(self, part: Part, size: int) -> None:
        """Take a part whose frame used ``size`` bytes of the window. Raises ProtocolError."""
        if self._ended or not frames.fits(self._part_window, self._received - self._reported, size):
            raise frames.ProtocolError("a part came after the last one" if self._ended else "a part exceeds the window")
        self._received += size
        self._arrived.append((part, size))
        self._notify_receiver()

    def end_parts(self) -> None:
        """Note that no more parts come."""
        self._ended = True
        self._notify_receiver()

    def abandon(self) -> None:
        """Note that the caller has gone; code of the model that runs is not interrupted."""
        self.cancelled = True
        self._notify_receiver()

    def cancel(self) -> None:
        super().cancel()
        self._notify_receiver()

    def _notify_receiver(self) -> None:
        wake = self._wake_receiver
        if wake is not None:
            wake()


class BlockingSessions(ABC):
    """A blocking runtime that also runs sessions, each on a thread of its own."""

    @abstractmethod
    def session(self, session: Session) -> Output | None:
        """Run one session: take parts with ``session.receive``, and send chunks with ``session.chunk``. Return an
        output, or None after chunks. Raises as ``BlockingRuntime.predict`` does."""


class AsyncSessions(ABC):
    """An asynchronous runtime that also runs sessions."""

    @abstractmethod
    async def session(self, session: Session) -> Output | None:
        """Run one session, as ``BlockingSessions.session`` does; take parts with ``await session.receive_async`` and
        send chunks with ``await session.chunk_async``."""


def _resolve(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)
