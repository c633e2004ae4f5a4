"""Functions that are not flow code: each runs once, and flow code gets its result after it has been stored."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from asyncio import events
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from penstock.flows.kernel.errors import fault_of, of_end
from penstock.flows.kernel.records import Fault, Recorded, Status
from penstock.flows.kernel.resident import Run
from penstock.flows.kernel.values import encode


@dataclass(frozen=True, slots=True)
class Function:
    """A function with its arguments. ``timeout`` is in seconds, of one attempt."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout: float | None
    max_attempts: int

    def attempt(self) -> Any:
        """Call the function; return its value or an awaitable of it. Only its last failure is raised."""
        for _ in range(self.max_attempts - 1):
            try:
                return self.function(*self.arguments)
            except Exception:  # noqa: BLE001, S112  (whatever it raises, it has another attempt)
                continue
        return self.function(*self.arguments)

    async def wait(self, begun: Awaitable[Any]) -> Any:
        """Wait for the value of an async function, which has been called once."""
        for _ in range(self.max_attempts - 1):
            try:
                async with asyncio.timeout(self.timeout):
                    return await begun
            except Exception:  # noqa: BLE001  (as above)
                begun = self.function(*self.arguments)
        async with asyncio.timeout(self.timeout):
            return await begun


def execute(run: Run, no: int, effect: Function) -> None:
    """Call the function of a new step, unless the history has its result. An async one is left in ``run.effects``.

    While the run is ahead of what is stored, the call waits.
    """
    if run.ledger.replaying or not run.executes:
        return
    if run.ahead is None:
        _call(run, no, effect)
    else:
        context = contextvars.copy_context()
        run.ahead.calls.append(lambda: context.run(_call, run, no, effect))


def _call(run: Run, no: int, effect: Function) -> None:
    loop = events._get_running_loop()
    events._set_running_loop(None)
    try:
        value = effect.attempt()
        if inspect.isawaitable(value):
            run.effects.append((no, effect.wait(value), contextvars.copy_context()))
        else:
            run.recorded(completed(no, value))
    except BaseException as error:  # noqa: BLE001  (whatever it is, it becomes the outcome)
        run.recorded(failed(no, error))
    finally:
        events._set_running_loop(loop)


async def outcome(no: int, awaitable: Awaitable[Any]) -> Recorded:
    """Wait for an async effect; return its outcome. Raises CancelledError only if this task is cancelled."""
    try:
        return completed(no, await awaitable)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        return failed(no, error)  # any exception, also SystemExit, which would end the loop


def completed(no: int, value: object) -> Recorded:
    """Return the outcome of a function that returned."""
    try:
        return Recorded(no=no, value=Raw(encode(value, "its result")))
    except ValueError as error:
        return failed(no, error)


def failed(no: int, error: BaseException) -> Recorded:
    """Return the outcome of a function that raised an exception."""
    return Recorded(no=no, fault=fault_of(error))


def item(end: Mapping[str, Any], index: int, key: str, convert: Callable[[Any], Any] | None) -> Any:
    """Return the result of one item of a map (a MapItem, decoded), or StepFailed."""
    status, fault = Status(end["status"]), end.get("fault")
    if status is Status.COMPLETED:
        value = end.get("value")
        return value if convert is None else convert(value)
    return of_end(status, None if fault is None else msgspec.convert(fault, Fault), f"{key}[{index}]")
