"""The results of handlers: a whole response, a stream of bytes or events, or a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from penstock.web.websocket import WebSocket

JSON: Final = b"application/json"
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStream:
    """Bytes that are sent as they are produced: exactly ``size`` of them, which the response's head states.

    If ``chunks`` fails, the connection is cut, so that a client cannot mistake a part for the whole.
    """

    chunks: AsyncIterator[bytes]
    size: int
    content_type: bytes
    status: int = 200
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """Server-sent events: encoded chunks, sent as they are produced, with a comment after every 15 s of silence.

    ``begin`` holds events that exist already; they are sent with the head of the response. The next chunk is produced
    when the client has room for it. An ``endless`` stream ends when the process begins to stop; other streams may
    finish, as plain responses do.
    """

    chunks: AsyncIterator[bytes]
    begin: bytes = b""
    endless: bool = True
    status: int = 200
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The connection becomes a WebSocket, which ``run`` serves until it returns."""

    run: Callable[[WebSocket], Awaitable[None]]
    status: int = 101
    headers: Headers = field(default_factory=list)


AnyResponse = Response | ByteStream | EventStream | Upgrade

_encoder = msgspec.json.Encoder()


def json_response(value: Any, status: int = 200, headers: Headers | None = None) -> Response:
    """Return a response whose body is ``value`` as JSON."""
    return Response(status=status, body=_encoder.encode(value), headers=headers or [])
