"""Send responses that are produced while they are sent, no faster than the client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from penstock.errors import PenstockError, Unauthorized
from penstock.telemetry import logs
from penstock.web import encoding, problems
from penstock.web.body import Disconnected
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream
from penstock.web.writer import Writer

log = logs.get(__name__)

_RECONNECT: Final = b"retry: 1000\n\n"  # milliseconds


async def send_bytes(writer: Writer, request: Request, stream: ByteStream, *, close: bool) -> None:
    """Send bytes until they end, the client leaves, or its key is revoked.

    After a failure the response is shorter than its head states, so the connection is cut.
    """
    writer.write(encoding.byte_stream_head(stream, close=close))
    sent = 0
    cancel = _current_task().cancel
    request.left.add(cancel)
    try:
        if request.method == "HEAD":
            return
        with request.while_allowed(cancel):
            async for chunk in stream.chunks:
                sent += len(chunk)
                if sent > stream.size:
                    break
                await writer.send(chunk)
    except PenstockError as error:
        log.warning("response_cut", path=request.url_path[:200], reason=error.message)
        raise Disconnected from None
    except asyncio.CancelledError:
        _give_in(request)
        raise Disconnected from None
    finally:
        request.left.remove(cancel)
        await _close(stream.chunks)
    if sent != stream.size:
        raise RuntimeError(f"{sent} bytes were produced of a response of {stream.size}")


async def send_events(writer: Writer, request: Request, stream: EventStream, *, chunked: bool, close: bool) -> None:
    """Send events until they end, the client leaves, its key is revoked, or the process begins to stop.

    After a revocation the last event, ``revoked``, has the problem as its data. A stream that fails ends; its reader
    reconnects and resumes after the last event that it received. Little is done before the first events are written,
    because they are what the client waits for.
    """
    head = encoding.event_stream_head(stream, chunked=chunked, close=close)
    cancel = _current_task().cancel
    request.left.add(cancel)
    if stream.endless:
        request.stopping.add(cancel)
    try:
        if request.method == "HEAD":
            writer.write(head)
            return
        with request.while_allowed(cancel):
            begin = _RECONNECT + stream.begin
            await writer.send(head + (encoding.chunk(begin) if chunked else begin))
            if not (stream.endless and request.stopping.is_set()):
                async for chunk in stream.chunks:
                    if chunk:
                        await writer.send(encoding.chunk(chunk) if chunked else chunk)
    except PenstockError as error:
        log.info("stream_ended", path=request.url_path[:200], reason=error.message)
    except asyncio.CancelledError:
        _give_in(request)
        if request.left.is_set():
            raise Disconnected from None
        if request.withdrawn:
            end = b"event: revoked\ndata: %b\n\n" % problems.response(Unauthorized(request.withdrawn)).body
            await writer.send(encoding.chunk(end) if chunked else end)
    finally:
        request.left.remove(cancel)
        if stream.endless:
            request.stopping.remove(cancel)
        await _close(stream.chunks)
    if chunked:
        writer.write(encoding.END_OF_CHUNKS)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    return task


async def _close(chunks: AsyncIterator[bytes]) -> None:
    """Close a generator, which may have ended early, so that it releases what it holds at once."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def _give_in(request: Request) -> None:
    """Treat a cancellation as the end of the stream if a signal of the request caused it; otherwise re-raise it."""
    task = asyncio.current_task()
    if task is None or not (request.left.is_set() or request.stopping.is_set() or request.withdrawn):
        raise  # noqa: PLE0704 - called while the cancellation is handled
    task.uncancel()
