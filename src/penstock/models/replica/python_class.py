"""Import and create the class of a Python model, and convert what its methods take and return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.failures import CallFailed, Category
from penstock.models.replica.contract.context import BadInput, Running
from penstock.models.replica.contract.contract import Contract, bad_input
from penstock.models.replica.contract.session import SessionContract
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.importing import imported
from penstock.models.replica.runtime import Call, Output, Schema, Spec
from penstock.models.replica.sessions import Session


class PythonClass:
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


def _called(instance: Any, name: str) -> Any:
    method = getattr(instance, name, None)
    return None if method is None else method()


def _not_loaded(*_arguments: Any, **_named: Any) -> Any:
    raise CallFailed(Category.UNAVAILABLE, "the model is not loaded yet")
