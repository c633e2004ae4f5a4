"""Run methods of a wrapper in threads, from the replica's event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from penstock.models.replica.aiges.waiting import finished
from penstock.models.replica.interrupting import Interruptible
from penstock.models.replica.runtime import Call

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """As many threads as the replica has places: each call and session runs one method at a time."""

    def __init__(self, places: int) -> None:
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="penstock-call")

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread. If this task is cancelled meanwhile, it ends when the function has returned: the
        place of its call is taken until then."""
        context = contextvars.copy_context()  # what the function prints belongs to the call
        loop = asyncio.get_running_loop()
        return await finished(loop.run_in_executor(self._pool, partial(context.run, function, *args, **kwargs)))

    async def interruptible(self, call: Call, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the wrapper, which is interrupted when the caller leaves."""
        return await self.run(interruptible, call, partial(function, *args, **kwargs))


def interruptible(call: Call, function: Callable[[], T]) -> T:
    """Run a method of the wrapper in this thread; it is interrupted when the caller leaves."""
    section = Interruptible((call,))
    try:
        section.enter()
        try:
            return function()
        finally:
            section.leave()
    finally:
        section.end()
