"""The run whose code is being executed, for the functions that act on it."""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.errors import FlowError
from penstock.flows.kernel.resident import Run
from penstock.flows.kernel.values import adapter

Seconds = float | timedelta


def current() -> Run:
    """Return the run. Raises FlowError outside of flow code."""
    owner = getattr(events._get_running_loop(), "owner", None)
    if not isinstance(owner, Run):
        raise FlowError("no flow is running here: the functions of run work only in flow code")
    return owner


def seconds(duration: Seconds | None) -> float | None:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def converter(returns: Any, callee: object = None) -> Callable[[Any], Any] | None:
    """Return a function that converts JSON to the type ``returns``, by default the type that a called flow returns."""
    expected = callee.returns if returns is None and isinstance(callee, Flow) else returns
    if expected is None or expected is Any:
        return None
    check = adapter(expected).validate_python
    return lambda value: check(value, strict=False)
