"""Waiting for a condition or a result, with a limit on time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, *, seconds: float = 60.0) -> None:
    """Return as soon as ``condition`` holds; fail with ``what`` when it does not in time.

    The limit is against hanging, not a measurement: other programs may keep the machine busy.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if loop.time() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        await asyncio.sleep(0.01)


async def within(waiting: Awaitable[Result], seconds: float = 60.0) -> Result:
    """Await the result, with a limit on time."""
    return await asyncio.wait_for(waiting, seconds)


async def succeeds(call: Callable[[], Awaitable[Result]], *, unless: type[Exception], seconds: float = 60.0) -> Result:
    """Return the result of the first call that does not raise this error, such as when a server comes back."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await call()
        except unless as error:
            if loop.time() > deadline:
                raise AssertionError(f"after {seconds} s still not: a call without {unless.__name__}") from error
        await asyncio.sleep(0.01)
