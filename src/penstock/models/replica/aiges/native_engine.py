"""An engine in C with the options of its manifest, as a blocking or an asynchronous runtime."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from penstock.models.replica.aiges import calls, schema_file
from penstock.models.replica.aiges.calls import EngineCall
from penstock.models.replica.aiges.library import Library
from penstock.models.replica.aiges.native_calls import NativeCalls, executed
from penstock.models.replica.aiges.native_resources import NativeResources
from penstock.models.replica.runtime import AsyncRuntime, BlockingRuntime, Call, Output, Runtime, Schema, Spec
from penstock.models.replica.sessions import AsyncSessions, Session

LIBRARY: Final = "./libwrapper.so"

_log = logging.getLogger("penstock.model")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True)
class Given:
    """A call, or the first part of a session, as the functions of the library get it."""

    data: EngineCall
    params: dict[str, str]
    resources: list[int]


class NativeEngine:
    """One engine in one replica."""

    def __init__(self, spec: Spec) -> None:
        """Load the library. Raises CallFailed (``unavailable``)."""
        options = spec.options
        self.spec = spec
        self.library = Library(spec.folder / options.get("library", LIBRARY), _note)
        self.resources = NativeResources(self.library, loadable=bool(options.get("load_resources", False)))
        self._header_pass: Sequence[str] = options.get("header_pass", ())

    def describe(self) -> Schema:
        """Return the description in a file or the manifest, or that of any engine."""
        version = self.library.version
        return schema_file.stated(self.spec, version=version) or schema_file.any_engine(self.spec, version=version)

    def load(self) -> None:
        options = self.spec.options
        self.library.init({name: calls.text_of(value) for name, value in options.get("config", {}).items()})
        self.resources.load_files(options.get("resources", {}), self.spec.folder)
        _log.info("version %s of the engine is loaded", self.library.version)

    def unload(self) -> None:
        self.resources.unload_all()
        self.library.fini()

    def given(self, data: EngineCall) -> Given:
        """Return what the library gets for a call, whose resources must be released. Raises CallFailed
        (``bad_input``)."""
        params = data.passed(self._header_pass, data.header.get("sid") or uuid4().hex)
        return Given(data, params, self.resources.take(data))


class BlockingEngine(BlockingRuntime):
    """Runs the calls of an engine that has neither callbacks nor sessions, on the replica's own threads."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._engine = NativeEngine(spec)

    def describe(self) -> Schema:
        return self._engine.describe()

    def load(self) -> None:
        self._engine.load()

    def unload(self) -> None:
        self._engine.unload()

    def predict(self, call: Call) -> Output:
        engine, data = self._engine, calls.read(call.input, call.segments)
        if engine.resources.is_operation(data):
            engine.resources.operate(data)
            return calls.write([])
        given = engine.given(data)
        try:
            return executed(engine.library, call, data, given.params, given.resources)
        finally:
            engine.resources.release(given.resources)


class EventedEngine(AsyncRuntime, AsyncSessions):
    """Runs calls and sessions on an event loop, and functions of the library in threads."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._engine = NativeEngine(spec)
        self._calls = NativeCalls(
            self._engine.library,
            places=spec.concurrency,
            called_back=bool(spec.options.get("callbacks", False)),
            realtime=bool(spec.options.get("realtime", False)),
        )

    def describe(self) -> Schema:
        return self._engine.describe()

    async def load(self) -> None:
        """Load the engine, on the main thread."""
        self._engine.load()

    async def unload(self) -> None:
        self._calls.close()
        self._engine.unload()

    async def predict(self, call: Call) -> Output:
        engine, data = self._engine, calls.read(call.input, call.segments)
        if engine.resources.is_operation(data):
            await self._calls.in_thread(engine.resources.operate, data)
            return calls.write([])
        async with self._given(data) as given:
            return await self._calls.once(call, data, given.params, given.resources)

    async def session(self, session: Session) -> None:
        data = calls.read(session.input, session.segments)
        async with self._given(data) as given:
            await self._calls.session(session, data, given.params, given.resources)

    @asynccontextmanager
    async def _given(self, data: EngineCall) -> AsyncIterator[Given]:
        """Return what the library gets for a call, and keep its resources loaded during the block."""
        given = self._engine.given(data)
        try:
            yield given
        finally:
            if given.resources:
                await self._calls.in_thread(self._engine.resources.release, given.resources)


def create(spec: Spec) -> Runtime:
    """Return the runtime of an engine: one that blocks is faster, and enough without callbacks and sessions."""
    if spec.options.get("callbacks", False) or spec.options.get("sessions", False):
        return EventedEngine(spec)
    stated = schema_file.stated(spec)
    return BlockingEngine(spec) if stated is None or stated.session is None else EventedEngine(spec)


def _note(call: Call | None, level: str, message: str) -> None:
    """Write a line of the engine into the model's log."""
    if call is None:
        _log.log(_LEVELS[level], message)
    else:
        call.log(message, level)
