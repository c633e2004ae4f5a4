"""Import, load and call a Python class. The runtime ``python`` describes its contract."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from penstock.failures import CallFailed, Category
from penstock.models.replica.contract.context import BadInput, Running
from penstock.models.replica.contract.contract import Contract, bad_input
from penstock.models.replica.contract.session import SessionContract
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.errors import no_sessions
from penstock.models.replica.importing import imported
from penstock.models.replica.interrupting import Interruptible, shielded
from penstock.models.replica.runtime import AsyncRuntime, BlockingRuntime, Call, Output, Runtime, Schema, Spec
from penstock.models.replica.sessions import AsyncSessions, BlockingSessions, Session


def create(spec: Spec) -> Runtime:
    """Return the runtime of a manifest's class. Raises CallFailed (``unavailable``)."""
    model = Model(spec)
    return AsyncModel(spec, model) if model.contract.asynchronous else BlockingModel(spec, model)


class Model:
    """The class of one manifest, and its instance once it is loaded."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        where = spec.options["class"]
        found = imported(where, spec.folder)
        try:
            self.contract = Contract(found)
        except ContractError as error:
            raise CallFailed(Category.UNAVAILABLE, str(error)) from None
        self._make = found
        self._config: Mapping[str, Any] = spec.options.get("config", {})
        try:
            inspect.signature(found).bind(**self._config)
        except TypeError as error:
            raise CallFailed(Category.UNAVAILABLE, f"the table config does not fit {where}: {error}") from None
        except ValueError:
            pass  # a class in C does not show its signature
        self.predict: Callable[..., Any] = _not_loaded
        self.predict_batch: Callable[..., Any] = _not_loaded
        self.session: Callable[..., Any] = _not_loaded
        self._instance: Any = None

    def running(self, calls: Sequence[Call] = ()) -> Running:
        return Running(calls, self.spec.device)

    def make(self) -> Any:
        """Create the instance and call its ``load``. Return what that returned: an awaitable if it is async."""
        self._instance = self._make(**self._config)
        self.predict = self._instance.predict
        if self.contract.batches:
            self.predict_batch = self._instance.predict_batch
        if self.contract.session is not None:
            self.session = self._instance.session
        return _called(self._instance, "load")

    def end(self) -> Any:
        """Call ``unload``, where there is one and the instance was created. Return what it returned."""
        instance, self._instance = self._instance, None
        return _called(instance, "unload")

    def describe(self) -> Schema:
        schema = self.contract.schema
        schema.description = schema.description or self.spec.schema.description
        return schema

    def arguments(self, call: Call, context: Any) -> dict[str, Any]:
        arguments = self.contract.arguments(call.input, call.segments)
        if self.contract.context is not None:
            arguments[self.contract.context] = context
        return arguments

    def session_arguments(
        self, contract: SessionContract, session: Session, context: Any, parts: Any
    ) -> dict[str, Any]:
        arguments = contract.arguments(session.input, session.segments)
        arguments[contract.parts] = parts
        if contract.context is not None:
            arguments[contract.context] = context
        return arguments

    def elements(self, calls: Sequence[Call]) -> tuple[list[Any], list[CallFailed | None]]:
        """Return the list for ``predict_batch``, and for each call the failure that keeps it out, or None."""
        elements: list[Any] = []
        failures: list[CallFailed | None] = []
        for call in calls:
            try:
                elements.append(self.contract.element(self.contract.arguments(call.input, call.segments)))
                failures.append(None)
            except CallFailed as failure:
                failures.append(failure)
        return elements, failures

    def results(self, given: Any, failures: Sequence[CallFailed | None]) -> list[Output | Exception]:
        """Return the result of each call of a batch. Raises CallFailed unless ``given`` is a list of them."""
        expected = failures.count(None)
        if not isinstance(given, list | tuple):
            kind = type(given).__name__
            raise CallFailed(Category.INTERNAL, f"predict_batch must return a list of {expected} results, not a {kind}")
        if len(given) != expected:
            raise CallFailed(
                Category.INTERNAL, f"predict_batch must return {expected} results, one for each call: {len(given)}"
            )
        values = iter(given)
        return [self._result(next(values)) if failure is None else failure for failure in failures]

    def _result(self, value: Any) -> Output | Exception:
        if isinstance(value, BadInput):
            return bad_input(value)
        if isinstance(value, Exception):
            return value
        try:
            return self.contract.output(value)
        except CallFailed as failure:
            return failure


class BlockingModel(BlockingRuntime, BlockingSessions):
    """A model whose ``predict`` blocks."""

    def __init__(self, spec: Spec, model: Model) -> None:
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

    def __init__(self, spec: Spec, model: Model) -> None:
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


def _called(instance: Any, name: str) -> Any:
    method = getattr(instance, name, None)
    return None if method is None else method()


def _finished(value: Any) -> None:
    if inspect.isawaitable(value):

        async def finish() -> None:
            await value

        asyncio.run(finish())


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _not_loaded(*_arguments: Any, **_named: Any) -> Any:
    raise CallFailed(Category.UNAVAILABLE, "the model is not loaded yet")
