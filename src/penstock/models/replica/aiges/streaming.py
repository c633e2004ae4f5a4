"""A wrapper with sessions or asynchronous calls: its methods run in threads, its results come by callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from penstock.failures import CallFailed
from penstock.models.replica.aiges import calls, codes, responses
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.engine import Engine, Given, Method
from penstock.models.replica.aiges.exchange import Exchange
from penstock.models.replica.aiges.once import executed
from penstock.models.replica.aiges.results import Pieces, Results, whole
from penstock.models.replica.aiges.running import Running
from penstock.models.replica.aiges.threads import Threads
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Spec
from penstock.models.replica.sessions import AsyncSessions, Session


class StreamingEngine(AsyncRuntime, AsyncSessions):
    """Runs calls and sessions of a wrapper."""

    leaves_threads: ClassVar[bool] = True

    def __init__(self, spec: Spec, engine: Engine) -> None:
        super().__init__(spec)
        self._engine = engine
        self._threads = Threads(spec.concurrency)

    def describe(self) -> Schema:
        return self._engine.describe()

    async def load(self) -> None:
        self._engine.load()

    async def unload(self) -> None:
        self._threads.close()
        self._engine.unload()

    async def predict(self, call: Call) -> Output:
        engine = self._engine
        given = engine.given(call.input, call.segments)
        if engine.is_operation(given.data):
            return await self._threads.run(engine.operate, given.data)
        results = Results()
        with self._running(call, given, results) as running:
            items = await self._items(call, given, running, results)
        return calls.with_usage(calls.write(items), running.usage)

    async def session(self, session: Session) -> None:
        given = self._engine.given(session.input, session.segments)
        results = Results()
        first = True

        async def take() -> EngineCall | None:
            nonlocal first
            if first:
                first = False
                return given.data
            part = await session.receive_async()
            return None if part is None else calls.read(part.json, part.segments)

        async def send(items: Sequence[Item], *, over: bool) -> None:
            output = calls.write(items)
            await session.chunk_async(calls.with_usage(output, running.usage) if over else output)

        with self._running(session, given, results) as running:
            await Exchange(self._engine, running, results, self._threads, send=send).run(given, take)

    async def _items(self, call: Call, given: Given, running: Running, results: Results) -> list[Item]:
        """Return the results of a single call."""
        match self._engine.method:
            case Method.ONCE:
                response = await self._threads.run(executed, self._engine, given, call)
                return self._engine.result(response, "wrapperOnceExec", codes.EXEC)
            case Method.ASYNC:
                return await self._asynchronous(given, call, results)
            case Method.SESSION:
                return await self._session_of_one_part(given, running, results)

    async def _asynchronous(self, given: Given, call: Call, results: Results) -> list[Item]:
        once = self._engine.wrapper.once_async
        try:
            await self._threads.interruptible(call, once, given.params, given.data, given.sid, given.resource)
        except CallFailed as failure:
            results.fail(failure)  # unless the wrapper has sent an error of its own, which says more
        return await whole(results)

    async def _session_of_one_part(self, given: Given, running: Running, results: Results) -> list[Item]:
        parts = [given.data]
        found = Pieces()

        async def take() -> EngineCall | None:
            return parts.pop() if parts else None

        async def send(items: Sequence[Item], *, over: bool) -> None:  # noqa: ARG001 - all are returned together
            found.add(items)

        await Exchange(self._engine, running, results, self._threads, send=send).run(given, take)
        return found.joined()

    @contextmanager
    def _running(self, call: Call, given: Given, results: Results) -> Iterator[Running]:
        """Let the wrapper send results for a call while the block runs."""
        running = Running(call, given.sid, _Sink(self._engine, results))
        self._engine.registry.begin(running)
        try:
            yield running
        finally:
            results.close()
            self._engine.registry.end(running)


class _Sink:
    """Takes the results of one call from threads of the wrapper."""

    def __init__(self, engine: Engine, results: Results) -> None:
        self._engine = engine
        self._results = results

    def deliver(self, response: Any) -> bool:
        try:
            return self._results.deliver(self._engine.result(response, "the callback", codes.ASYNC))
        except CallFailed as failure:
            return self._results.fail(failure)

    def fail(self, error: BaseException | None) -> None:
        where = "a thread of the wrapper"
        ended = codes.failed(codes.EXEC_RAISED, f"{where} has ended before its session")
        self._results.fail(ended if error is None else responses.raised(error, where))
