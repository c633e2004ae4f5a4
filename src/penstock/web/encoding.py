"""Encode the heads of responses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from penstock.web.response import ByteStream, EventStream, Headers, Response

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_JSON_OF_LENGTH: Final = b"content-type: application/json\r\ncontent-length: %d\r\n"
_OF_LENGTH: Final = b"content-type: %b\r\ncontent-length: %d\r\n"
_EVENTS: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache, no-transform\r\n"
    b"x-accel-buffering: no\r\n"
)
CLOSE: Final = b"connection: close\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
END_OF_CHUNKS: Final = b"0\r\n\r\n"


def response_head(response: Response, *, close: bool) -> bytes:
    """Return the head of a whole response; raises ValueError for a header that contains a line break."""
    body = response.body
    if response.status in {204, 304}:
        described, lines = b"", 0
    elif not body:
        described, lines = b"content-length: 0\r\n", 1
    elif response.content_type == b"application/json":
        described, lines = _JSON_OF_LENGTH % len(body), 2
    else:
        described, lines = _OF_LENGTH % (response.content_type, len(body)), 2
    return _head(response.status, described, lines, response.headers, close=close)


def byte_stream_head(stream: ByteStream, *, close: bool) -> bytes:
    """Return the head of a stream of known length."""
    return _head(stream.status, _OF_LENGTH % (stream.content_type, stream.size), 2, stream.headers, close=close)


def event_stream_head(stream: EventStream, *, chunked: bool, close: bool) -> bytes:
    """Return the head of an event stream, which ends with its last chunk or with the connection."""
    described, lines = (_EVENTS + CHUNKED, 4) if chunked else (_EVENTS, 3)
    return _head(stream.status, described, lines, stream.headers, close=close)


def _head(status: int, described: bytes, lines: int, headers: Headers, *, close: bool) -> bytes:
    for header in headers:
        described += b"%b: %b\r\n" % header
    lines += len(headers)
    if described.count(b"\n") != lines or described.count(b"\r") != lines or b"\0" in described:
        raise ValueError("a response header contains a line break")
    return b"%b%b%b\r\n" % (_STATUS_LINES[status], described, CLOSE if close else b"")


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)
