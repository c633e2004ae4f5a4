"""Hand the chunks of an upload to a library that pulls them, so that both sides end in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress


class _Stopped(Exception):
    """The source has failed, or its reader was cancelled; the library must discard what it has sent."""


async def feed(chunks: AsyncIterator[bytes], take: Callable[[AsyncIterator[bytes]], Awaitable[object]]) -> None:
    """Call ``take`` with an iterator that yields ``chunks``, and wait until it is done.

    ``chunks`` is read in a task of this function, which the library never cancels. If one side ends early (``chunks``
    or ``take`` raises, or the caller is cancelled), the other side ends before this function raises.
    """
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
    stopped = False

    async def fill() -> None:
        async for chunk in chunks:
            await pieces.put(chunk)
        await pieces.put(None)

    async def taken() -> AsyncIterator[bytes]:
        while not stopped and (piece := await pieces.get()) is not None:
            yield piece
        if stopped:
            raise _Stopped

    filling = asyncio.create_task(fill())
    taking = asyncio.ensure_future(take(taken()))
    try:
        await asyncio.wait([filling, taking], return_when=asyncio.FIRST_COMPLETED)
        if not taking.done():
            filling.result()
        await asyncio.shield(taking)
    finally:
        stopped = not taking.done()
        filling.cancel()
        await asyncio.wait([filling])
        if stopped:
            if pieces.empty():
                pieces.put_nowait(None)  # wakes the iterator
            with suppress(Exception):
                await taking
