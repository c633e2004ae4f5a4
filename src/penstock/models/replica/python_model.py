"""Run calls and sessions on a Python class. The runtime ``python`` describes its contract."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from penstock.models.replica.contract.context import BadInput
from penstock.models.replica.contract.contract import Contract, bad_input
from penstock.models.replica.contract.session import SessionContract
from penstock.models.replica.errors import no_sessions
from penstock.models.replica.interrupting import Interruptible, shielded
from penstock.models.replica.python_class import PythonClass
from penstock.models.replica.runtime import AsyncRuntime, BlockingRuntime, Call, Output, Runtime, Schema, Spec
from penstock.models.replica.sessions import AsyncSessions, BlockingSessions, Session


def create(spec: Spec) -> Runtime:
    """Return the runtime of a manifest's class. Raises CallFailed (``unavailable``)."""
    model = PythonClass(spec)
    return AsyncModel(spec, model) if model.contract.asynchronous else BlockingModel(spec, model)


class BlockingModel(BlockingRuntime, BlockingSessions):
    """A model whose ``predict`` blocks."""

    def __init__(self, spec: Spec, model: PythonClass) -> None:
        super().__init__(spec)
        self._model = model

    def describe(self) -> Schema:
        return self._model.describe()

    def load(self) -> None:
        with self._model.running():
            _finished(self._model.make())

    def unload(self) -> None:
        with self._model.running():
            _finished(self._model.end())

    def predict(self, call: Call) -> Output | None:
        model = self._model
        with model.running((call,)) as context:
            return self._run(call, model.predict, model.arguments(call, context), model.contract)

    def session(self, session: Session) -> Output | None:
        model, contract = self._model, self._model.contract.session
        if contract is None:
            raise no_sessions()
        with model.running((session,)) as context:
            parts = _Parts(session, contract)
            arguments = model.session_arguments(contract, session, context, parts)
            return self._run(session, model.session, arguments, contract)

    def _run(
        self,
        call: Call,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        contract: Contract | SessionContract,
    ) -> Output | None:
        section = Interruptible((call,))
        try:
            section.enter()
            try:
                value = function(**arguments)
            finally:
                section.leave()
            if not contract.streams:
                return contract.output(value)
            self._stream(call, section, value, contract.output)
        except BadInput as refusal:
            raise bad_input(refusal) from refusal
        finally:
            section.end()
        return None

    def predict_batch(self, calls: Sequence[Call]) -> Sequence[Output | Exception]:
        model = self._model
        elements, failures = model.elements(calls)
        given: Any = []
        if elements:
            with model.running(calls):
                section = Interruptible(calls)
                try:
                    section.enter()
                    try:
                        given = model.predict_batch(elements)
                    finally:
                        section.leave()
                except BadInput as refusal:
                    raise bad_input(refusal) from refusal
                finally:
                    section.end()
        return model.results(given, failures)

    def _stream(
        self, call: Call, section: Interruptible, values: Iterable[Any], write: Callable[[Any], Output]
    ) -> None:
        """Send what the model yields; only the model's own code is interrupted, not the sending."""
        iterator = iter(values)
        try:
            while True:
                section.enter()
                try:
                    value = next(iterator)
                except StopIteration:
                    return
                finally:
                    section.leave()
                call.chunk(write(value))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()


class AsyncModel(AsyncRuntime, AsyncSessions):
    """A model whose ``predict`` is a coroutine or an async generator."""

    def __init__(self, spec: Spec, model: PythonClass) -> None:
        super().__init__(spec)
        self._model = model

    def describe(self) -> Schema:
        return self._model.describe()

    async def load(self) -> None:
        with self._model.running():
            await _awaited(self._model.make())

    async def unload(self) -> None:
        with self._model.running():
            await _awaited(self._model.end())

    async def predict(self, call: Call) -> Output | None:
        model = self._model
        with model.running((call,)) as context:
            return await self._run(call, model.predict, model.arguments(call, context), model.contract)

    async def session(self, session: Session) -> Output | None:
        model, contract = self._model, self._model.contract.session
        if contract is None:
            raise no_sessions()
        with model.running((session,)) as context:
            parts = _parts(session, contract)
            arguments = model.session_arguments(contract, session, context, parts)
            return await self._run(session, model.session, arguments, contract)

    async def _run(
        self,
        call: Call,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        contract: Contract | SessionContract,
    ) -> Output | None:
        try:
            value = await _awaited(function(**arguments))
            if not contract.streams:
                return contract.output(value)
            await self._stream(call, value, contract.output)
        except BadInput as refusal:
            raise bad_input(refusal) from refusal
        return None

    async def predict_batch(self, calls: Sequence[Call]) -> Sequence[Output | Exception]:
        model = self._model
        elements, failures = model.elements(calls)
        given: Any = []
        if elements:
            with model.running(calls):
                try:
                    given = await model.predict_batch(elements)
                except BadInput as refusal:
                    raise bad_input(refusal) from refusal
        return model.results(given, failures)

    async def _stream(self, call: Call, values: AsyncIterator[Any], write: Callable[[Any], Output]) -> None:
        try:
            async for value in values:
                await call.chunk_async(write(value))
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()


class _Parts:
    """Iterates over the parts of a session in blocking code of a model, which is not interrupted meanwhile."""

    __slots__ = ("_receive", "_value")

    def __init__(self, session: Session, contract: SessionContract) -> None:
        self._receive = session.receive
        self._value = contract.value

    def __iter__(self) -> _Parts:
        return self

    def __next__(self) -> Any:
        with shielded():
            part = self._receive()
            value = None if part is None else self._value(part)
        if part is None:
            raise StopIteration
        return value


async def _parts(session: Session, contract: SessionContract) -> AsyncIterator[Any]:
    """Iterate over the parts of a session in a coroutine of a model."""
    while (part := await session.receive_async()) is not None:
        yield contract.value(part)


def _finished(value: Any) -> None:
    if inspect.isawaitable(value):

        async def finish() -> None:
            await value

        asyncio.run(finish())


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
