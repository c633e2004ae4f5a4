"""Calls and sessions of a loaded ``libwrapper.so``, on the replica's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from penstock.models.replica.aiges import calls, codes
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.library import Library, Running
from penstock.models.replica.aiges.results import Results, Streams, whole
from penstock.models.replica.aiges.waiting import ended, finished
from penstock.models.replica.runtime import Call, Output
from penstock.models.replica.sessions import Session

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_WAIT: Final = 0.001  # seconds between calls of wrapperRead, which may return nothing; doubled each time
_LONGEST_WAIT: Final = 0.05


class NativeCalls:
    """Runs calls in threads: ``places`` of them, so that each call of the replica finds a thread.

    With ``called_back`` the engine reports its results by callbacks. Without, ``realtime`` lets a session read its
    results after each part, and not only at its end.
    """

    def __init__(self, library: Library, *, places: int, called_back: bool, realtime: bool) -> None:
        self._library = library
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="penstock-call")
        self._called_back = called_back
        self._realtime = realtime

    def close(self) -> None:
        """Wait for calls that still run."""
        self._pool.shutdown()

    async def once(self, call: Call, given: EngineCall, params: Mapping[str, str], resources: Sequence[int]) -> Output:
        """Run a call."""
        library = self._library
        if not self._called_back:
            return await self.in_thread(executed, library, call, given, params, resources)
        results = Results()
        running = library.begin(call, results)
        try:
            await self.in_thread(library.execute_async, running, params, given.items, resources)
            return written(await whole(results), running)
        finally:
            library.end(running)

    async def session(
        self, given: Session, first: EngineCall, params: Mapping[str, str], resources: Sequence[int]
    ) -> None:
        """Run a session, whose results are chunks of the call."""
        library = self._library
        results = Results() if self._called_back else None
        running = library.begin(given, results)
        session = _Session(given, running, library, self.in_thread)
        try:
            await self.in_thread(library.create, running, params, resources)
            if results is not None:
                await session.exchange(first, results)
            else:
                await session.alternate(first, realtime=self._realtime)
        finally:
            try:
                if running.handle is not None:
                    await self.in_thread(library.destroy, running)
            finally:  # also where the caller leaves meanwhile
                library.end(running)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the library. A call that is cancelled meanwhile ends when the function has returned: its
        place is taken until then, and so is the memory that it was given."""
        return await finished(asyncio.wrap_future(self._pool.submit(function, *args, **kwargs)))


def executed(
    library: Library, call: Call, given: EngineCall, params: Mapping[str, str], resources: Sequence[int]
) -> Output:
    """Run a call without a callback, on this thread."""
    running = library.begin(call)
    try:
        return written(library.execute(running, params, given.items, resources), running)
    finally:
        library.end(running)


def written(items: Sequence[Item], running: Running) -> Output:
    """Return the results of a call as its output. Raises CallFailed if there are none."""
    if not items:
        raise codes.failed(codes.INVALID_OUTPUT, "the engine returned no results")
    return calls.with_usage(calls.write(items), running.usage)


def _fed(results: Results, feeding: asyncio.Task[None]) -> None:
    if not feeding.cancelled() and (error := feeding.exception()) is not None:
        results.fail(error)


class _Session:
    """The parts and results of one session."""

    def __init__(self, given: Session, running: Running, library: Library, in_thread: Callable[..., Any]) -> None:
        self._given = given
        self._running = running
        self._library = library
        self._in_thread = in_thread
        self._sent = Streams()

    async def exchange(self, first: EngineCall, results: Results) -> None:
        """Pass parts to the engine, while its callbacks pass results to the caller."""
        feeding = asyncio.create_task(self._feed(first))
        feeding.add_done_callback(partial(_fed, results))
        try:
            while not await self._send(await results.next()):
                pass
        finally:
            feeding.cancel()
            await ended(feeding)

    async def alternate(self, first: EngineCall, *, realtime: bool) -> None:
        """Pass parts to the engine and read its results by turns."""
        given: EngineCall | None = first
        inputs = Streams()
        while given is not None:
            await self._write(given)
            if (inputs.feed(given.items) or realtime) and await self._send(await self._read()):
                return
            given = await self._next()
        wait = _FIRST_WAIT
        while not await self._send(items := await self._read()):
            wait = _FIRST_WAIT if items else min(2 * wait, _LONGEST_WAIT)
            await asyncio.sleep(wait)

    async def _feed(self, first: EngineCall) -> None:
        given: EngineCall | None = first
        while given is not None:
            await self._write(given)
            given = await self._next()

    async def _next(self) -> EngineCall | None:
        part = await self._given.receive_async()
        return None if part is None else calls.read(part.json, part.segments)

    async def _write(self, given: EngineCall) -> None:
        if given.items:
            await self._in_thread(self._library.write, self._running, given.items)

    async def _read(self) -> Sequence[Item]:
        items: Sequence[Item] = await self._in_thread(self._library.read, self._running)
        return items

    async def _send(self, items: Sequence[Item]) -> bool:
        """Send a result to the caller; return whether it was the last one."""
        if not items:
            return False
        over = self._sent.feed(items)
        output = calls.write(items)
        await self._given.chunk_async(calls.with_usage(output, self._running.usage) if over else output)
        return over
