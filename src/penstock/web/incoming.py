"""Receive the body of one request: find its end, and enforce its minimum rate."""

from __future__ import annotations

from typing import Final

from penstock.web.body import Body
from penstock.web.chunked import ChunkedDecoder
from penstock.web.head import Head
from penstock.web.limits import Limits
from penstock.web.problems import Refused

_SMALL_REST: Final = 64 * 1024  # bytes of an unread body that are received and dropped to keep the connection


class IncomingBody:
    """Finds the end of a body, by its length or its chunks, and hands its content to ``body``.

    ``expects`` means that the client waits for 100 Continue; ``broken``, that the body is not valid, so that nothing
    after it can be read; ``dropped``, that the response was sent and the rest of the body is discarded.
    """

    __slots__ = (
        "_decoder",
        "_limits",
        "_remaining",
        "_window_at",
        "_window_bytes",
        "body",
        "broken",
        "dropped",
        "expects",
    )

    def __init__(self, head: Head, body: Body, limits: Limits) -> None:
        self.body = body
        self.broken = False
        self.dropped = False
        self._limits = limits
        self._window_at = 0.0  # the rate is measured in windows
        self._window_bytes = 0
        self._remaining = 0  # bytes of a body of known length
        self._decoder: ChunkedDecoder | None = None
        coding = head.headers.get(b"transfer-encoding")
        if coding is None:
            self._remaining = int(head.headers.get(b"content-length", 0))
        elif coding.lower() != b"chunked":
            raise Refused(501, "the only transfer encoding of requests is chunked")
        elif not head.version_1_1:
            raise Refused(400, "an HTTP/1.0 request cannot have a transfer encoding")
        else:
            self._decoder = ChunkedDecoder()
        self.expects = head.headers.get(b"expect", b"").lower() == b"100-continue"

    @property
    def ends(self) -> bool:
        """Whether the whole body was received."""
        return self.body.complete

    @property
    def rest_is_small(self) -> bool:
        """Whether the rest of the body is small enough to receive and drop, which keeps the connection."""
        return self._decoder is None and self._remaining <= _SMALL_REST and not self.expects and not self.broken

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the body; returns what follows it."""
        if self.broken:
            return b""
        if data:
            self.expects = False  # the client does not wait for 100 Continue
        if self._decoder is None:
            piece = data if len(data) <= self._remaining else data[: self._remaining]
            self._remaining -= len(piece)
            self._feed(piece)
            if self._remaining == 0:
                self.body.end()
            return data[len(piece) :]
        try:
            content, data = self._decoder.feed(data)
        except Refused as refused:
            self._break(refused)
            return b""
        if content:  # in one piece: tiny chunks would take many times their size
            self._feed(content[0] if len(content) == 1 else b"".join(content))
        if self._decoder.done:
            self.body.end()
        return data

    def _feed(self, piece: bytes) -> None:
        self._window_bytes += len(piece)
        if piece and not self.dropped:
            self.body.feed(piece)

    def _break(self, refused: Refused) -> None:
        self.broken = True
        self.body.fail(refused)

    def begin_window(self, now: float) -> None:
        """Measure the rate from now on, because until now the client could not send."""
        self._window_at, self._window_bytes = now, 0

    def check_rate(self, now: float) -> None:
        """Abort a body that arrives too slowly."""
        window = self._limits.body_window.total_seconds()
        if self.expects or self.broken or now - self._window_at < window:
            return
        if self._window_bytes < self._limits.body_rate * window:
            self._break(Refused(408, f"a body must arrive at {self._limits.body_rate} bytes a second at least"))
        self.begin_window(now)
