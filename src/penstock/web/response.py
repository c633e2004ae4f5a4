"""What a handler returns: a whole response, or a stream of bytes or events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

JSON = b"application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStream:
    """Bytes that are sent as they come: ``size`` of them, as the response's head promises.

    If ``chunks`` fails the connection is cut, so that a client cannot mistake what was sent for the whole.
    """

    chunks: AsyncIterator[bytes]
    size: int
    content_type: bytes
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """Server-sent events: ready-made chunks, sent as they come, with a comment every 15 s of silence.

    An ``endless`` one ends when the process is told to stop; the others are let finish, as plain responses are.
    """

    chunks: AsyncIterator[bytes]
    endless: bool = True


_encoder = msgspec.json.Encoder()


def json_response(value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    """Return a response whose body is ``value`` as JSON."""
    return Response(status=status, body=_encoder.encode(value), headers=headers or [])
