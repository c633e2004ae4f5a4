"""Calls and sessions of a connected plugin, on the replica's event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from penstock.failures import CallFailed
from penstock.models.replica.aiges import calls, codes, plugin_service
from penstock.models.replica.aiges.calls import EngineCall
from penstock.models.replica.aiges.messages import plugin_pb2 as messages
from penstock.models.replica.aiges.plugin_service import HEALTH, Service, broken, items_of, refused, request_of
from penstock.models.replica.aiges.results import Results, Streams, whole
from penstock.models.replica.aiges.waiting import ended, finished
from penstock.models.replica.runtime import Output
from penstock.models.replica.sessions import Session

_MAX_STRAYS: Final = 10  # results for no call that are logged

_log = logging.getLogger("penstock.model")


class PluginCalls:
    """Runs calls of a plugin. Its results come on one stream, and a tag names the call that they belong to.

    ``lost`` is called with the reason when the stream has ended, or when the plugin reports that it is not healthy: no
    call can get its result then. A method of the plugin that a call has begun is awaited even if the call is cancelled,
    because its place is taken until then.
    """

    def __init__(self, target: str, lost: Callable[[str], None]) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=plugin_service.OPTIONS)
        self.service = Service(self._channel)
        self._lost = lost
        self._numbers = itertools.count(1)
        self._calls: dict[str, Results] = {}  # by tag
        self._sessions: dict[str, Results] = {}  # by handle, for plugins that name results by it
        self._strays = 0
        self._tasks: list[asyncio.Task[None]] = []

    def listen(self) -> None:
        """Open the stream of results, and watch the plugin's health."""
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch_health())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._channel.close()

    # Calls

    async def once(self, given: EngineCall, params: Mapping[str, str]) -> Output:
        """Run a call."""
        tag, results = self._begin()
        executing = asyncio.create_task(self._execute(request_of(tag, params, given.items), results))
        try:
            items = await whole(results)
        finally:
            self._end(tag)
            await ended(executing)
        if not items:
            raise codes.failed(codes.INVALID_OUTPUT, "the engine returned no results")
        return calls.write(items)

    async def _execute(self, request: messages.Request, results: Results) -> None:
        """Run a call. Its results may also be in the response."""
        try:
            response = await _called("wrapperOnceExec", self.service.execute(request))
            if response.ret:
                results.fail(refused(response.ret, codes.EXEC))
            elif response.list:
                results.deliver(items_of(response))
        except CallFailed as error:
            results.fail(error)

    # Sessions

    async def session(self, given: Session, first: EngineCall, params: Mapping[str, str]) -> None:
        """Run a session, whose results are chunks of the call."""
        tag, results = self._begin()
        session = _PluginSession(self, given, tag, params, results)
        try:
            await finished(session.create())
            self._sessions[session.handle] = results
            await session.run(first)
        finally:
            if self._sessions.get(session.handle) is results:
                del self._sessions[session.handle]
            self._end(tag)
            if session.handle:
                await finished(session.destroy())

    # Results

    def _begin(self) -> tuple[str, Results]:
        tag = f"penstock-{next(self._numbers)}"
        results = self._calls[tag] = Results()
        return tag, results

    def _end(self, tag: str) -> None:
        self._calls.pop(tag).close()

    async def _receive(self) -> None:
        try:
            async for response in self.service.communicate():
                self._deliver(response)
            self._lost("its stream of results ended")
        except grpc.RpcError as error:
            self._lost(f"its stream of results broke: {error.details() or error.code().name}")

    def _deliver(self, response: messages.Response) -> None:
        results = self._calls.get(response.tag) or self._sessions.get(response.tag)
        if results is None:
            self._stray(response.tag)
            return
        try:
            if response.ret:
                raise refused(response.ret, codes.ASYNC)
            results.deliver(items_of(response))
        except CallFailed as error:
            results.fail(error)

    def _stray(self, tag: str) -> None:
        """Log a result for no call: its caller may have left, or the plugin confuses its tags."""
        self._strays += 1
        if self._strays <= _MAX_STRAYS:
            last = "; further ones are not logged" if self._strays == _MAX_STRAYS else ""
            _log.warning("the plugin sent a result with the tag %.100r, which no call has%s", tag, last)

    async def _watch_health(self) -> None:
        """Report when the plugin's health changes. A plugin that cannot be watched is taken as healthy."""
        try:
            async for response in self.service.watch_health(health_pb2.HealthCheckRequest(service=HEALTH)):
                if response.status != health_pb2.HealthCheckResponse.SERVING:
                    self._lost("it reports that it is not healthy")
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                self._lost(f"its health cannot be watched: {error.details() or error.code().name}")


async def _called(method: str, call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.RpcError as error:
        raise broken(error, method) from None


class _PluginSession:
    """The parts and results of one session."""

    def __init__(
        self, plugin: PluginCalls, given: Session, tag: str, params: Mapping[str, str], results: Results
    ) -> None:
        self.handle = ""
        self._service = plugin.service
        self._given = given
        self._tag = tag
        self._params = params
        self._results = results

    async def create(self) -> None:
        request = messages.CreateRequest(params=self._params, sid=self._params["sid"], tag=self._tag)
        created = await _called("wrapperCreate", self._service.create(request))
        if created.err_code:
            raise refused(created.err_code, codes.CREATE)
        if not created.handle:
            raise codes.failed(codes.CREATE, "wrapperCreate returned no handle and no error")
        self.handle = created.handle

    async def run(self, first: EngineCall) -> None:
        """Pass parts to the engine, and its results to the caller, until these end."""
        feeding = asyncio.create_task(self._feed(first))
        feeding.add_done_callback(self._fed)
        streams = Streams()
        try:
            over = False
            while not over:
                items = await self._results.next()
                over = streams.feed(items)
                if items:
                    await self._given.chunk_async(calls.write(items))
        finally:
            feeding.cancel()
            await ended(feeding)

    async def destroy(self) -> None:
        """End the session; a failure is only logged."""
        try:
            returned = await _called("wrapperDestroy", self._service.destroy(messages.Handle(handle=self.handle)))
        except CallFailed as error:
            self._given.log(str(error), "warning")
        else:
            if returned.ret:
                self._given.log(f"wrapperDestroy returned {returned.ret}", "warning")

    async def _feed(self, first: EngineCall) -> None:
        given: EngineCall | None = first
        while given is not None:
            if given.items:
                await finished(self._write(given))
            part = await self._given.receive_async()
            given = None if part is None else calls.read(part.json, part.segments)

    async def _write(self, given: EngineCall) -> None:
        request = request_of(self._tag, self._params, given.items)
        message = messages.WriteMessage(req=request, handle=self.handle, sid=self._params["sid"])
        returned = await _called("wrapperWrite", self._service.write(message))
        if returned.ret:
            raise refused(returned.ret, codes.WRITE)

    def _fed(self, feeding: asyncio.Task[None]) -> None:
        if not feeding.cancelled() and (error := feeding.exception()) is not None:
            self._results.fail(error)
