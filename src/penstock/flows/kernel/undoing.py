"""Register compensations."""

from __future__ import annotations

import inspect
from typing import Any

from penstock.flows.kernel.compensations import Compensate, Compensation
from penstock.flows.kernel.current import current
from penstock.flows.kernel.records import StepKind
from penstock.flows.kernel.resident import Run


def compensate(function: Compensate, *arguments: Any, key: str | None = None) -> None:
    """Register an async function that undoes an action. Call this before the action.

    Registered functions are called in reverse order when the run fails or is cancelled. They may use ``run``, and no
    cancellation reaches them. If one fails, the run is held.
    """
    registered(current(), function, arguments, key)


def registered(
    run: Run, function: Compensate | None, arguments: tuple[Any, ...] = (), key: str | None = None
) -> Compensation | None:
    """Issue the step of a compensation, if there is one, and return it."""
    if function is None:
        return None
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"compensate must be an async function, not {function!r}")
    no = run.note(StepKind.COMPENSATION, function.__name__, key=key)
    compensation = Compensation(no, function.__name__, function, arguments)
    run.compensations.add(compensation)
    return compensation
