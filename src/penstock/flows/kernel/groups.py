"""Wait for several steps or tasks, so that the run is woken once: when the code can continue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from penstock.flows.kernel.loop import FlowLoop
from penstock.flows.kernel.steps import Call, Group, Handle


async def gather(loop: FlowLoop, awaitables: Sequence[Awaitable[Any]], *, return_exceptions: bool) -> list[Any]:
    """Return the results in the order given. Unless ``return_exceptions``, the first failure ends the others."""
    futures = _futures(awaitables)
    waiter = loop.create_future()
    left = set(futures)
    group = Group(sum(isinstance(one, Handle) and not one.done() for one in left))

    def ended(future: asyncio.Future[Any]) -> None:
        left.discard(future)
        if isinstance(future, Handle) and future.group is group:
            group.left -= 1
        failed = not return_exceptions and (future.cancelled() or future.exception() is not None)
        if (failed or not left) and not waiter.done():
            waiter.set_result(future if failed else None)

    if futures:
        failed = await _wait(futures, group, ended, waiter)
        if failed is not None:
            await _end(futures)
            failed.result()
    return [_outcome(future) if return_exceptions else future.result() for future in futures]


async def race(loop: FlowLoop, awaitables: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    """Return the index and the result of the first to end, or raise its exception; the others are cancelled."""
    futures = _futures(awaitables)
    if not futures:
        raise ValueError("race needs at least one awaitable")
    waiter = loop.create_future()

    def ended(future: asyncio.Future[Any]) -> None:
        if not waiter.done():
            waiter.set_result(future)

    first = await _wait(futures, Group(1), ended, waiter)
    await _end(futures)
    return futures.index(first), first.result()


async def each(
    loop: FlowLoop,
    function: Callable[[Any], Coroutine[Any, Any, Any]],
    items: Sequence[Any],
    *,
    names: Sequence[str],
    limit: int | None,
    return_exceptions: bool,
) -> list[Any]:
    """Call an async function for each item, ``limit`` at a time; return the results in the order given.

    ``names`` has the name of each item, which must differ.
    """
    base = loop.next_path()
    results: list[Any] = [None] * len(items)
    left = iter(range(len(items)))

    async def some() -> None:
        for index in left:
            # The path names the item, so the keys of its steps do not depend on which others have ended.
            task = loop.start_task(function(items[index]), f"{base}[{names[index]}]")
            try:
                results[index] = await task
            except Exception as error:
                if not return_exceptions:
                    raise
                results[index] = error

    count = len(items) if limit is None else min(limit, len(items))
    await gather(loop, [some() for _ in range(count)], return_exceptions=False)
    return results


async def _wait(futures: list[asyncio.Future[Any]], group: Group, ended: Any, waiter: asyncio.Future[Any]) -> Any:
    distinct = list(dict.fromkeys(futures))
    for future in distinct:
        if isinstance(future, Handle) and not future.done() and future.group is None:
            future.group = group
        future.add_done_callback(ended)
    try:
        return await waiter
    except BaseException:
        await _end(distinct)
        raise
    finally:
        for future in distinct:
            future.remove_done_callback(ended)
            if isinstance(future, Handle) and future.group is group:
                future.group = None


async def _end(futures: list[asyncio.Future[Any]]) -> None:
    """Cancel those that have not ended, and wait until their tasks have."""
    left = [one for one in dict.fromkeys(futures) if not one.done()]
    for future in left:
        future.cancel()
    tasks = [one for one in left if not one.done()]
    if tasks:
        await asyncio.wait(tasks)


def _futures(awaitables: Sequence[Awaitable[Any]]) -> list[asyncio.Future[Any]]:
    return [one.issue() if isinstance(one, Call) else asyncio.ensure_future(one) for one in awaitables]


def _outcome(future: asyncio.Future[Any]) -> Any:
    if future.cancelled():
        return asyncio.CancelledError()
    return future.exception() or future.result()
