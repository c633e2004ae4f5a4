"""What flow code can call: a model, a queue of jobs, or a flow."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from msgspec import Struct

from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import OnParentEnd, Target

PREDICT: Final = "predict"  # the task type of jobs that run on models
FLOW: Final = "flow"  # the task type of runs
_MAX_NAME: Final = 200  # characters
_KEY: Final = re.compile(r"[^\s#\x00-\x1f\x7f][^#\x00-\x1f\x7f]{0,199}")


class Queue(Struct, frozen=True):
    """A queue of jobs as something to call: jobs of this task type and model profile."""

    task_type: str
    model_profile: str


class FlowName(Struct, frozen=True):
    """A flow of another file as something to call."""

    name: str
    version: str


Callee = str | Queue | FlowName | Flow[..., object]


class Options(Struct, frozen=True):
    """How the child jobs of a step run; options that are None come from the flow or the queue."""

    priority: int | None = None
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    concurrency_key: str | None = None
    on_parent_end: OnParentEnd | None = None


def name_of(callee: object) -> str:
    """Return the name of a callee for use in keys. Raises TypeError if it cannot be called."""
    match callee:
        case str():
            return callee
        case Queue():
            return f"{callee.task_type}/{callee.model_profile}"
        case FlowName() | Flow():
            return callee.name
    raise TypeError(
        "the first argument must be the name of a model, run.queue(task_type, model_profile), a flow, or "
        f"run.flow(name, version), not {callee!r}"
    )


def target_of(callee: object, options: Options, flow: Flow[..., object]) -> Target:
    """Return the target of a call, whose missing options are those that the calling ``flow`` states."""
    task_type, model_profile = _queue_of(callee)
    stated = flow.options
    timeout = stated.step_timeout.total_seconds() if stated.step_timeout is not None else None
    return Target(
        task_type=task_type,
        model_profile=model_profile,
        priority=options.priority,
        max_attempts=stated.step_max_attempts if options.max_attempts is None else options.max_attempts,
        timeout_seconds=timeout if options.timeout_seconds is None else options.timeout_seconds,
        concurrency_key=options.concurrency_key,
        on_parent_end=stated.on_parent_end if options.on_parent_end is None else options.on_parent_end,
    )


def options_of(
    priority: int | None,
    max_attempts: int | None,
    timeout: timedelta | float | None,
    concurrency_key: str | None,
    on_parent_end: str | None,
) -> Options:
    """Return checked options. Raises ValueError."""
    if max_attempts is not None and max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(f"timeout must be more than 0 seconds, not {seconds}")
    return Options(
        priority=priority,
        max_attempts=max_attempts,
        timeout_seconds=seconds,
        concurrency_key=concurrency_key,
        on_parent_end=None if on_parent_end is None else OnParentEnd(on_parent_end),
    )


def checked_key(key: object) -> str:
    """Return an explicit key. Raises ValueError. Keys that follow from the code contain ``#``, which others cannot."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not key.isprintable():
        raise ValueError(f"key must be a text of 1 to 200 characters without # or line breaks, not {key!r}")
    return key


def checked_name(name: str) -> str:
    """Return a name of a step or patch. Raises ValueError. The database can hold no other characters."""
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ValueError(f"a name must have 1 to {_MAX_NAME} printable characters, not {name[:100]!r}")
    return name


def described(callee_kind: str, target: Target | None) -> str:
    """Return a readable description of a step's target, such as ``call of model whisper``."""
    if target is None:
        return callee_kind
    if target.task_type == PREDICT:
        return f"{callee_kind} of model {target.model_profile}"
    if target.task_type == FLOW:
        return f"{callee_kind} of flow {target.model_profile}"
    return f"{callee_kind} of queue {target.task_type}/{target.model_profile}"


def _queue_of(callee: object) -> tuple[str, str]:
    match callee:
        case str():
            return PREDICT, callee
        case Queue():
            return checked_name(callee.task_type), checked_name(callee.model_profile)
        case FlowName() | Flow():
            return FLOW, f"{callee.name}@{callee.version}"
    raise TypeError(f"{callee!r} cannot be called")
