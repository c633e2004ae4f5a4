"""The functions with which flow code acts on its run: ``from penstock.flows import run``.

The type of the first argument of ``call``, ``start`` and ``map`` says what is called: a text is the name of a model, a
decorated function is a flow, ``queue(task_type, model_profile)`` is a queue of jobs, and ``flow(name, version)`` is a
flow of another file.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from penstock.flows.kernel import effects
from penstock.flows.kernel.calling import call, flow, map, queue, start  # noqa: A004  (as it is called in flows)
from penstock.flows.kernel.compensations import Compensate
from penstock.flows.kernel.current import Seconds, converter, current, seconds
from penstock.flows.kernel.errors import FlowError, StepCancelled, StepFailed
from penstock.flows.kernel.records import StepKind
from penstock.flows.kernel.steps import Call, Handle
from penstock.flows.kernel.targets import FlowName, Queue
from penstock.flows.kernel.undoing import compensate, registered
from penstock.flows.kernel.values import digest, encode
from penstock.flows.kernel.waiting import gather, race, shielded, sleep, sleep_until, wait_event, wait_signal

_OWN_KINDS: Final = frozenset({"job", "callback", "reset", "revoked"})  # first words of Penstock's events

__all__ = [
    "FlowError",
    "FlowName",
    "Handle",
    "Queue",
    "StepCancelled",
    "StepFailed",
    "call",
    "compensate",
    "flow",
    "gather",
    "map",
    "now",
    "patched",
    "progress",
    "publish",
    "queue",
    "race",
    "random",
    "run_id",
    "shielded",
    "side_effect",
    "sleep",
    "sleep_until",
    "start",
    "uuid",
    "wait_event",
    "wait_signal",
]


def now() -> datetime:
    """Return the time, in UTC, by the clock of the database: that at which what the code waited for last came."""
    return datetime.fromtimestamp(current().loop.now, UTC)


def random() -> _random.Random:
    """Return a generator of random numbers, which yields the same ones on each replay."""
    return _random.Random(_seed("random"))


def uuid() -> UUID:
    """Return a random UUID, the same one on each replay."""
    return UUID(bytes=_seed("uuid"), version=4)


def run_id() -> UUID:
    """Return the id of this run, which is also that of its job."""
    return current().id


def side_effect(
    function: Callable[..., Any],
    *arguments: Any,
    name: str | None = None,
    key: str | None = None,
    returns: Any = None,
    timeout: Seconds | None = None,
    max_attempts: int = 1,
    compensate: Compensate | None = None,
) -> Call[Any]:
    """Call a function that is not flow code, once, and return its result as JSON.

    Nothing that the code does with the result takes effect before that is stored.

    An async function may do anything, and runs beside other runs; ``timeout`` limits each of its attempts. A plain one
    must be quick: all runs of the process wait for it. It runs again only if the process ends before its result is
    stored. Raises StepFailed.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
    title = name or str(getattr(function, "__name__", type(function).__name__))
    effect = effects.Function(function, arguments, timeout=seconds(timeout), max_attempts=max_attempts)

    def issue() -> Handle[Any]:
        run = current()
        undo = registered(run, compensate)
        handle = run.step(StepKind.RECORD, title, key=key, convert=converter(returns))
        if undo is not None:
            undo.handle = handle
        effects.execute(run, handle.no, effect)
        return handle

    return Call(f"run.side_effect of {title}", issue)


def publish(kind: str, data: Any = None, *, key: str | None = None) -> None:
    """Store an event of this kind when the turn is stored. Its data are a JSON object, by default an empty one."""
    if kind.partition(".")[0] in _OWN_KINDS:
        raise ValueError(
            f"events whose kind begins with {kind.partition('.')[0]}. are Penstock's own; choose another word"
        )
    written = encode({} if data is None else data, "the data of the event")
    if not written.startswith(b"{"):
        raise ValueError(f"the data of the event must be an object, not {type(data).__name__}")
    current().note(StepKind.PUBLISH, kind, key=key, value=written)


def progress(value: Any) -> None:
    """Set the progress of the run: a fraction from 0.0 to 1.0, or any JSON."""
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(f"a fraction must be from 0.0 to 1.0, not {value}")
        value = {"fraction": value}
    current().note(StepKind.PROGRESS, "progress", value=encode(value, "the progress"))


def patched(name: str) -> bool:
    """Return whether this run takes the new path of a small change: True, unless it had passed this place when the
    code was changed. The first result holds for the whole run."""
    run = current()
    run.check_usable()
    return run.ledger.patched(name)


def _seed(what: str) -> bytes:
    """Return 16 bytes that follow from the run, the task, and how many it has taken before."""
    run = current()
    task = run.loop.current()
    names = run.loop.outside_names if task is None else task.names
    count = names[f"#{what}"] = names.get(f"#{what}", 0) + 1
    path = "~" if task is None else task.path
    return digest(run.id.bytes + f"{path}/{what}#{count}".encode())
