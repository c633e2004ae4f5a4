"""The part that a room adds to a process: routes for a gateway, duties for a housekeeper, a start and a stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from penstock.processes.periodic import Periodic
from penstock.web.route import AnyRoute, Fallback

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One room's part of a process."""

    routes: Sequence[AnyRoute] = ()
    fallbacks: Sequence[Fallback] = ()
    duties: Sequence[Periodic] = ()
    start: Step | None = None
    stop: Step | None = None  # also called when ``start`` has failed


@asynccontextmanager
async def started(parts: Sequence[Part]) -> AsyncIterator[None]:
    """Start parts in order, and stop them in reverse: a later part may use the earlier ones until it has stopped."""
    async with AsyncExitStack() as stack:
        for part in parts:
            if part.stop is not None:
                stack.push_async_callback(part.stop)
            if part.start is not None:
                await part.start()
        yield
