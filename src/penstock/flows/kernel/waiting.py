"""Wait for steps, time, signals and events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from penstock.flows.kernel import groups, targets
from penstock.flows.kernel.current import Seconds, converter, current, seconds
from penstock.flows.kernel.records import StepKind
from penstock.flows.kernel.resident import Run
from penstock.flows.kernel.steps import Call, Handle
from penstock.flows.kernel.values import encode

T = TypeVar("T")


async def gather(*awaitables: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """Wait for calls, handles and coroutines at the same time; return their results in the order given.

    The first failure cancels the others and is raised, unless ``return_exceptions``. A gather of calls wakes the run
    once, when all have ended.
    """
    return await groups.gather(current().loop, awaitables, return_exceptions=return_exceptions)


async def race(*awaitables: Awaitable[Any]) -> tuple[int, Any]:
    """Return the index and the result of the first to end, or raise its exception; the others are cancelled."""
    return await groups.race(current().loop, awaitables)


def sleep(duration: Seconds, *, key: str | None = None) -> Call[None]:
    """Wait for a duration, which may be months: a sleeping run takes a row in the database and no memory."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"the duration must be at least 0 seconds, not {seconds}")
    return Call("run.sleep", lambda: _timer(current(), current().loop.now + seconds, key))


def sleep_until(time: datetime, *, key: str | None = None) -> Call[None]:
    """Wait until an aware time; one in the past ends the wait at once."""
    if time.tzinfo is None:
        raise ValueError("the time must be aware: datetime(…, tzinfo=UTC)")
    return Call("run.sleep_until", lambda: _timer(current(), time.timestamp(), key))


async def wait_signal(name: str, *, timeout: Seconds | None = None, returns: Any = None, key: str | None = None) -> Any:
    """Return the payload of the next signal of this name. Signals are kept from the creation of the run on, and come
    in order. Raises TimeoutError."""
    run = current()
    async with asyncio.timeout(seconds(timeout)):
        return await run.wait_signal(targets.checked_key(name), key=key, convert=converter(returns))


async def wait_event(
    kind: str,
    where: Mapping[str, Any] | None = None,
    *,
    timeout: Seconds | None = None,
    returns: Any = None,
    key: str | None = None,
) -> Any:
    """Return the data of the first event of this kind, since the run was created, that has the values of ``where``.
    Raises TimeoutError."""
    run = current()
    written = encode(dict(where or {}), "where")
    async with asyncio.timeout(seconds(timeout)):
        return await run.step(StepKind.EVENT, kind, key=key, value=written, convert=converter(returns))


async def shielded(awaitable: Awaitable[T]) -> T:
    """Wait for something that a cancellation of the run or of this task does not reach; raise that afterwards."""
    current()
    task = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def _timer(run: Run, due: float, key: str | None) -> Handle[None]:
    return run.step(StepKind.TIMER, "sleep", key=key, due=due)
