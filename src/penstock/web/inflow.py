"""The bytes that a connection has received and no handler has read, and the bound on them."""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.web.body import Body
from penstock.web.head import Head
from penstock.web.head_buffer import HeadBuffer
from penstock.web.incoming import IncomingBody
from penstock.web.limits import Limits
from penstock.web.writer import Writer

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Inflow:
    """The unread input of a connection.

    ``buffer`` holds what belongs to no request yet, ``incoming`` the body of the current one until all of it has been
    received. Reading the socket is paused while one of them is full.
    """

    __slots__ = ("_limits", "_loop", "_writer", "buffer", "incoming", "paused", "transport")

    transport: asyncio.Transport

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop, writer: Writer) -> None:
        self.buffer = HeadBuffer(limits)
        self.incoming: IncomingBody | None = None
        self.paused = False
        self._limits = limits
        self._loop = loop
        self._writer = writer  # for 100 Continue

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have been neither parsed nor read by a handler."""
        return len(self.buffer) + (self.incoming.body.buffered if self.incoming is not None else 0)

    def begin_body(self, head: Head, rest: bytes) -> Body:
        """Return the body of a request whose head has been taken; more of it may still come. Raises Refused.

        ``rest`` arrived with the head; the buffer is empty then.
        """
        body = Body(self._wanted)
        incoming = IncomingBody(head, body, self._limits)
        if rest:
            self.buffer.add(incoming.receive(rest))
        else:
            self.buffer.move_body(incoming)
        if not incoming.ends:
            self.incoming = incoming
            incoming.begin_window(self._loop.time())
            self.bound()
        return body

    def receive(self, data: bytes) -> None:
        """Take bytes that arrive while a request is in progress: the rest of its body, and what follows it."""
        incoming = self.incoming
        if incoming is not None:
            data = incoming.receive(data)
            if incoming.ends:
                self.incoming = None
        if data:
            self.buffer.add(data)

    def fail_body(self, error: Exception) -> None:
        """Raise ``error`` in the handler of the current request if it waits for the rest of its body."""
        if self.incoming is not None:
            self.incoming.body.fail(error)

    def bound(self) -> None:
        """Stop reading the socket while a buffer is full."""
        buffered = self.incoming.body.buffered if self.incoming is not None else 0
        if buffered > self._limits.body_buffer_bytes or len(self.buffer) > self._limits.head_bytes:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def _wanted(self) -> None:
        """Resume reading the socket, because the handler reads the body."""
        incoming = self.incoming
        if incoming is None:
            return
        if incoming.expects:
            incoming.expects = False
            incoming.begin_window(self._loop.time())
            self._writer.write(_CONTINUE)
        if self.paused and incoming.body.buffered <= self._limits.body_buffer_bytes // 2:
            incoming.begin_window(self._loop.time())
            self.resume()
