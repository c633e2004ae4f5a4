"""Wait for work that must not be interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def ended(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, however often this task is cancelled meanwhile."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # it was, or will be, reported elsewhere


async def finished(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Return the result of work. If this task is cancelled meanwhile, it ends when the work is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise
