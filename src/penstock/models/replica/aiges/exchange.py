"""A session of a wrapper: create, write, read or callbacks, destroy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from penstock.failures import CallFailed
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.engine import Engine, Given
from penstock.models.replica.aiges.results import Results, Streams
from penstock.models.replica.aiges.running import Running
from penstock.models.replica.aiges.threads import Threads
from penstock.models.replica.aiges.waiting import ended
from penstock.models.replica.aiges.wrapper import Handle

OPEN_SECONDS: Final = 5.0  # the time for more results of streams that are open when others have ended

_FIRST_WAIT: Final = 0.001  # seconds between calls of wrapperRead that return nothing; doubled each time
_LONGEST_WAIT: Final = 0.05
_OVER: Final = (kinds.END, kinds.ONCE)

Take = Callable[[], Awaitable[EngineCall | None]]


class Send(Protocol):
    """Sends results to the caller; ``over``: they are the last ones."""

    def __call__(self, items: Sequence[Item], *, over: bool) -> Awaitable[None]: ...


class Exchange:
    """One session: passes parts to the wrapper, and its results to the caller."""

    def __init__(self, engine: Engine, running: Running, results: Results, threads: Threads, *, send: Send) -> None:
        self._engine = engine
        self._wrapper = engine.wrapper
        self._running = running
        self._results = results
        self._threads = threads
        self._send = send
        self._handle: Handle | None = None
        self._streams = Streams()
        self._some_over = False  # a stream of results has ended
        self._fed = False  # the wrapper has all parts

    async def run(self, first: Given, take: Take) -> None:
        """Run the session until its last result. Raises CallFailed."""
        try:
            await self._interruptible(self._create, first)
            if self._engine.called_back:
                await self._called_back(take)
            else:
                await self._by_turns(take)
        finally:
            if self._handle is not None:
                await ended(asyncio.ensure_future(self._threads.run(self._destroy, self._handle)))

    async def _called_back(self, take: Take) -> None:
        """Pass parts to the wrapper, while its callbacks pass results to the caller."""
        feeding = asyncio.create_task(self._feed(take))
        feeding.add_done_callback(self._note_fed)
        try:
            while items := await self._next():
                if await self._sent(items):
                    return
        finally:
            feeding.cancel()
            await ended(feeding)

    async def _by_turns(self, take: Take) -> None:
        """Pass parts to the wrapper and read its results by turns: between parts only where it works in real time,
        afterwards until the last result."""
        while (data := await take()) is not None:
            await self._write(data)
            while self._engine.realtime and (items := await self._read()):
                if await self._sent(items):
                    return
        wait = _FIRST_WAIT
        while not await self._sent(items := await self._read()):
            wait = _FIRST_WAIT if items else min(2 * wait, _LONGEST_WAIT)
            await asyncio.sleep(wait)

    async def _sent(self, items: Sequence[Item]) -> bool:
        """Send results; return whether they were the last ones."""
        if not items:
            return False
        over = self._streams.feed(items)
        self._some_over = self._some_over or any(item.status in _OVER for item in items)
        await self._send(items, over=over)
        return over

    async def _next(self) -> Sequence[Item]:
        """Wait for the next results. Return nothing if streams of results have ended and the others bring no more: a
        wrapper may have forgotten them."""
        if not (self._some_over and self._fed):
            return await self._results.next()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self._results.next()
        except TimeoutError:
            return ()

    async def _feed(self, take: Take) -> None:
        while (data := await take()) is not None:
            await self._write(data)

    def _note_fed(self, feeding: asyncio.Task[None]) -> None:
        if feeding.cancelled():
            return
        error = feeding.exception()
        if error is None:
            self._fed = True
        else:
            self._results.fail(error)

    async def _write(self, data: EngineCall) -> None:
        assert self._handle is not None  # noqa: S101 - the session was created
        if data.items:
            await self._interruptible(self._wrapper.write, self._handle.name, data, self._running.sid)

    async def _read(self) -> Sequence[Item]:
        """Return the next results; nothing if there are none yet, which wrappers report by empty data."""
        assert self._handle is not None  # noqa: S101 - as above
        response = await self._interruptible(self._wrapper.read, self._handle.name, self._running.sid)
        items = self._engine.result(response, "wrapperRead", codes.READ)
        return [item for item in items if len(item.data) or item.status in _OVER]

    async def _interruptible(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._threads.interruptible(self._running.call, function, *args)

    # In a thread

    def _create(self, first: Given) -> None:
        # The handle is noted here, and not returned: the task may be cancelled before it gets what a thread returns.
        self._handle = self._wrapper.create(first.params, first.sid, first.resource)
        self._engine.registry.named(self._running, self._handle.name)

    def _destroy(self, handle: Handle) -> None:
        try:
            self._wrapper.destroy(handle.name, self._running.sid)
        except CallFailed as failure:  # the caller has its results, or has gone
            self._running.call.log(f"wrapperDestroy has failed: {failure.message}", "warning")
        finally:
            handle.release()
