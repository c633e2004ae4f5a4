"""A wrapper whose calls are single: ``wrapperOnceExec`` on the replica's own threads."""

from __future__ import annotations

from typing import Any, ClassVar

from penstock.models.replica import output
from penstock.models.replica.aiges import calls, codes, responses
from penstock.models.replica.aiges.engine import Engine, Given
from penstock.models.replica.aiges.running import Running
from penstock.models.replica.aiges.threads import interruptible
from penstock.models.replica.runtime import BlockingRuntime, Call, Output, Schema, Spec


class OnceEngine(BlockingRuntime):
    """Runs calls of a wrapper that has no sessions."""

    leaves_threads: ClassVar[bool] = True

    def __init__(self, spec: Spec, engine: Engine) -> None:
        super().__init__(spec)
        self._engine = engine

    def describe(self) -> Schema:
        return self._engine.describe()

    def load(self) -> None:
        self._engine.load()

    def unload(self) -> None:
        self._engine.unload()

    def predict(self, call: Call) -> Output:
        engine = self._engine
        given = engine.given(call.input, call.segments)
        if engine.is_operation(given.data):
            return engine.operate(given.data)
        running = Running(call, given.sid)
        engine.registry.begin(running)
        try:
            response = executed(engine, given, call)
            items = engine.result(response, "wrapperOnceExec", codes.EXEC)
            return calls.with_usage(calls.write(items), running.usage)
        finally:
            engine.registry.end(running)


def executed(engine: Engine, given: Given, call: Call) -> Any:
    """Return what ``wrapperOnceExec`` returns; it is interrupted when the caller leaves. Raises CallFailed."""
    try:
        return interruptible(call, lambda: engine.wrapper.once(given.params, given.data, given.sid, given.resource))
    except responses.RAISED as error:  # the wrapper's code
        output.failed(error)
        raise responses.raised(error, "wrapperOnceExec") from error
