"""Send responses and streams as ASGI messages."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Scope, Send

from penstock.errors import PenstockError
from penstock.telemetry import logs
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Response

log = logs.get(__name__)

_PING_SECONDS = 15.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def passing_request_id_back(scope: Scope, send: Send) -> Send:
    """``send`` that repeats the request's ``X-Request-ID`` in the response, where there is one."""
    request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    if request_id is None:
        return send

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
        await send(message)

    return send_with_id


async def send_response(send: Send, method: str, response: Response) -> None:
    """Send a whole response; to HEAD without its body."""
    headers = [(b"content-length", str(len(response.body)).encode()), *response.headers]
    if response.status == 204:
        headers = response.headers
    elif response.body:
        headers.append((b"content-type", response.content_type))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else response.body})


async def send_bytes(send: Send, request: Request, stream: ByteStream, method: str) -> None:
    """Send bytes as they come, no faster than the client takes them, until they end or it leaves.

    A failure leaves the response shorter than it says: the server then cuts the connection.
    """
    headers = [
        (b"content-length", str(stream.size).encode()),
        (b"content-type", stream.content_type),
        *stream.headers,
    ]
    await send({"type": "http.response.start", "status": stream.status, "headers": headers})
    if method == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    left = asyncio.ensure_future(request.disconnected())
    try:
        async for chunk in stream.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if left.done():
                return
    except PenstockError as error:
        log.warning("answer_cut", reason=error.message)
        return
    finally:
        left.cancel()
    await send({"type": "http.response.body", "body": b""})


async def send_stream(send: Send, request: Request, stream: EventStream, method: str) -> None:
    """Send events as they come, until they end, the client leaves, or the process is told to stop.

    A stream that fails ends: its reader comes back and resumes behind the last event it has seen.
    """
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    if method == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
    left = asyncio.ensure_future(request.disconnected())
    stopping = asyncio.ensure_future(request.stopping.wait() if stream.endless else asyncio.Event().wait())
    coming: asyncio.Future[Any] = asyncio.ensure_future(anext(stream.chunks, None))
    try:
        while not left.done() and not stopping.done():
            await asyncio.wait([coming, left, stopping], timeout=_PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                if not left.done() and not stopping.done():
                    await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
                continue
            chunk = coming.result()
            if chunk is None:
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            coming = asyncio.ensure_future(anext(stream.chunks, None))
    except PenstockError as error:
        log.info("stream_ended", reason=error.message)
    finally:
        for task in (left, stopping, coming):
            task.cancel()
        await asyncio.gather(coming, return_exceptions=True)
    await send({"type": "http.response.body", "body": b""})
