"""The functions with which flow code acts on its run: ``from penstock.flows import run``.

What a call calls is told by the type of its first argument: a text is the name of a model, a decorated function is a
flow, ``queue(task_type, model_profile)`` is a queue of jobs, and ``flow(name, version)`` is a flow of another file.
"""

from __future__ import annotations

import asyncio
import inspect
import random as _random
from asyncio import events
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload
from uuid import UUID

from penstock.flows.kernel import effects, targets, waiting
from penstock.flows.kernel.compensations import Compensate, Compensation
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.errors import FlowError, StepCancelled, StepFailed
from penstock.flows.kernel.records import OnParentEnd, StepKind
from penstock.flows.kernel.resident import Run
from penstock.flows.kernel.steps import Call, Handle
from penstock.flows.kernel.targets import Callee, FlowName, Queue
from penstock.flows.kernel.values import adapter, digest, encode

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

T = TypeVar("T")
Seconds = float | timedelta


def queue(task_type: str, model_profile: str) -> Queue:
    """Return a queue of jobs, for ``call``, ``start`` and ``map``."""
    return Queue(task_type, model_profile)


def flow(name: str, version: str) -> FlowName:
    """Return a flow by its name, for ``call``, ``start`` and ``map``."""
    return FlowName(name, version)


# Child jobs


class JobOptions(TypedDict, total=False):
    """How a child job runs. What is missing is as the flow states, or the queue."""

    key: str | None  # replaces the step's identity, which otherwise follows from the place of the call
    priority: int | None
    max_attempts: int | None
    timeout: Seconds | None  # of an attempt
    concurrency_key: str | None
    on_parent_end: OnParentEnd | str | None


class CallOptions(JobOptions, total=False):
    """The options of a call."""

    returns: Any  # the type of the result, by default that of a decorated flow, and plain JSON of others
    compensate: Compensate | None  # undoes the call: gets its result, or None if it has not completed


@overload
def call(callee: Flow[..., T], input: Mapping[str, Any], **options: Unpack[CallOptions]) -> Call[T]: ...


@overload
def call(callee: str | Queue | FlowName, input: Any, **options: Unpack[CallOptions]) -> Call[Any]: ...


def call(callee: Any, input: Any, **options: Unpack[CallOptions]) -> Call[Any]:  # noqa: A002
    """Submit a child job and return its result: ``await run.call("whisper", {"audio": …})``. Raises StepFailed.

    The job is submitted when the call is awaited; a task made of it, ``gather`` and ``race`` await it too.
    """
    returns, undo = options.get("returns"), options.get("compensate")
    stated = _stated(options)
    name = targets.name_of(callee)
    written = encode(input, f"the input of {name}")
    convert = _converter(returns, callee)

    def issue() -> Handle[Any]:
        run = _current()
        compensation = _registered(run, undo)
        target = targets.target_of(callee, stated, run.flow)
        handle = run.step(StepKind.CALL, name, key=options.get("key"), value=written, target=target, convert=convert)
        if compensation is not None:
            compensation.handle = handle
        return handle

    return Call(f"run.call of {name}", issue)


@overload
def start(callee: Flow[..., T], input: Mapping[str, Any], **options: Unpack[CallOptions]) -> Handle[T]: ...


@overload
def start(callee: str | Queue | FlowName, input: Any, **options: Unpack[CallOptions]) -> Handle[Any]: ...


def start(callee: Any, input: Any, **options: Unpack[CallOptions]) -> Handle[Any]:  # noqa: A002
    """Submit a child job and go on: await the handle for the result, cancel it to cancel the job."""
    begun: Call[Any] = call(callee, input, **options)
    return begun.issue()


def map(  # noqa: A001
    callee: Callee,
    items: Iterable[Any],
    *,
    limit: int | None = None,
    returns: Any = None,
    return_exceptions: bool = False,
    **options: Unpack[JobOptions],
) -> Call[list[Any]]:
    """Submit a child job for each item, at most ``limit`` at a time, and return their results in the same order.

    It is one step, however many items there are. The first failure ends the others and is raised, unless
    ``return_exceptions``: then StepFailed stands in the place of each result that is missing.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    stated = _stated(options)
    name = targets.name_of(callee)
    written = [encode(item, f"items[{index}]") for index, item in enumerate(items)]
    convert = _converter(returns, callee)

    def issue() -> Handle[Any]:
        run = _current()
        handle: Handle[Any] = run.step(
            StepKind.MAP,
            name,
            key=options.get("key"),
            items=written,
            target=targets.target_of(callee, stated, run.flow),
            limit=limit,
            fail_fast=not return_exceptions,
            convert=lambda ends: [effects.item(end, index, handle.key, convert) for index, end in enumerate(ends)],
            size=len(written),
        )
        return handle

    return Call(f"run.map of {name}", issue)


def _stated(options: JobOptions) -> targets.Options:
    return targets.options_of(
        options.get("priority"),
        options.get("max_attempts"),
        options.get("timeout"),
        options.get("concurrency_key"),
        options.get("on_parent_end"),
    )


# Waiting


async def gather(*awaitables: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """Wait for calls, handles and coroutines at the same time; return their results in the order given.

    The first failure cancels the others and is raised, unless ``return_exceptions``. A gather of calls wakes the run
    once, when all have ended.
    """
    return await waiting.gather(_current().loop, awaitables, return_exceptions=return_exceptions)


async def race(*awaitables: Awaitable[Any]) -> tuple[int, Any]:
    """Return the index and the result of the first to end, or raise its exception; the others are cancelled."""
    return await waiting.race(_current().loop, awaitables)


def sleep(duration: Seconds, *, key: str | None = None) -> Call[None]:
    """Wait for some time, which may be months: a sleeping run takes a row in the database, and no memory."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"the duration must be at least 0 seconds, not {seconds}")
    return Call("run.sleep", lambda: _timer(_current(), _current().loop.now + seconds, key))


def sleep_until(time: datetime, *, key: str | None = None) -> Call[None]:
    """Wait until a time, which must be aware of its zone; a past one is reached at once."""
    if time.tzinfo is None:
        raise ValueError("the time must be aware: datetime(…, tzinfo=UTC)")
    return Call("run.sleep_until", lambda: _timer(_current(), time.timestamp(), key))


async def wait_signal(name: str, *, timeout: Seconds | None = None, returns: Any = None, key: str | None = None) -> Any:
    """Return the payload of the next signal of this name. Signals are kept from the creation of the run on, and come
    in order. Raises TimeoutError."""
    run = _current()
    async with asyncio.timeout(_seconds(timeout)):
        return await run.wait_signal(targets.checked_key(name), key=key, convert=_converter(returns))


async def wait_event(
    kind: str,
    where: Mapping[str, Any] | None = None,
    *,
    timeout: Seconds | None = None,
    returns: Any = None,
    key: str | None = None,
) -> Any:
    """Return the data of the first event of this kind, since the run was created, that has the values of ``where``.
    Raises TimeoutError."""
    run = _current()
    written = encode(dict(where or {}), "where")
    async with asyncio.timeout(_seconds(timeout)):
        return await run.step(StepKind.EVENT, kind, key=key, value=written, convert=_converter(returns))


async def shielded(awaitable: Awaitable[T]) -> T:
    """Wait for something that a cancellation of the run or of this task does not reach; it is raised afterwards."""
    _current()
    task = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


# Values that differ from run to run


def now() -> datetime:
    """Return the time, in UTC, by the clock of the database: that at which what the code waited for last came."""
    return datetime.fromtimestamp(_current().loop.now, UTC)


def random() -> _random.Random:
    """Return a generator of random numbers, which yields the same ones on each replay."""
    return _random.Random(_seed("random"))


def uuid() -> UUID:
    """Return a random UUID, the same one on each replay."""
    return UUID(bytes=_seed("uuid"), version=4)


def run_id() -> UUID:
    """Return the id of this run, which is also that of its job."""
    return _current().id


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
    """Call a function that is not flow code, once, and return its result as JSON when that has been stored.

    An async function may do anything, and runs beside other runs; ``timeout`` limits each of its attempts. A plain one
    must be quick: all runs of the process wait for it. It runs again only if the process ends before its result is
    stored. Raises StepFailed.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
    title = name or str(getattr(function, "__name__", type(function).__name__))
    effect = effects.Function(function, arguments, timeout=_seconds(timeout), max_attempts=max_attempts)

    def issue() -> Handle[Any]:
        run = _current()
        undo = _registered(run, compensate)
        handle = run.step(StepKind.RECORD, title, key=key, convert=_converter(returns))
        if undo is not None:
            undo.handle = handle
        effects.execute(run, handle.no, effect)
        return handle

    return Call(f"run.side_effect of {title}", issue)


# Reports


def publish(kind: str, data: Any = None, *, key: str | None = None) -> None:
    """Store an event of this kind when the turn is stored."""
    _current().note(StepKind.PUBLISH, kind, key=key, value=encode(data, "the data of the event"))


def progress(value: Any) -> None:
    """Set the progress of the run: a fraction from 0.0 to 1.0, or any JSON."""
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(f"a fraction must be from 0.0 to 1.0, not {value}")
        value = {"fraction": value}
    _current().note(StepKind.PROGRESS, "progress", value=encode(value, "the progress"))


# Versions and undoing


def patched(name: str) -> bool:
    """Return whether this run takes the new path of a small change: True, unless it had passed this place when the
    code was changed. The first result holds for the whole run."""
    run = _current()
    run.check_usable()
    return run.ledger.patched(name)


def compensate(function: Compensate, *arguments: Any, key: str | None = None) -> None:
    """Register an async function that undoes something, before doing it. Registered functions are called in reverse
    order when the run fails or is cancelled. They may use ``run``, and no cancellation reaches them. If one fails, the
    run is held."""
    _registered(_current(), function, arguments, key)


def _registered(
    run: Run, function: Compensate | None, arguments: tuple[Any, ...] = (), key: str | None = None
) -> Compensation | None:
    if function is None:
        return None
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"compensate must be an async function, not {function!r}")
    no = run.note(StepKind.COMPENSATION, function.__name__, key=key)
    compensation = Compensation(no, function.__name__, function, arguments)
    run.compensations.add(compensation)
    return compensation


def _current() -> Run:
    owner = getattr(events._get_running_loop(), "owner", None)
    if not isinstance(owner, Run):
        raise FlowError("no flow is running here: the functions of run work in flow code only")
    return owner


def _timer(run: Run, due: float, key: str | None) -> Handle[None]:
    return run.step(StepKind.TIMER, "sleep", key=key, due=due)


def _seconds(duration: Seconds | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _seed(what: str) -> bytes:
    """Return 16 bytes that follow from the run, the task, and how many it has taken before."""
    run = _current()
    task = run.loop.current()
    names = run.loop.outside_names if task is None else task.names
    count = names[f"#{what}"] = names.get(f"#{what}", 0) + 1
    path = "~" if task is None else task.path
    return digest(run.id.bytes + f"{path}/{what}#{count}".encode())


def _converter(returns: Any, callee: object = None) -> Callable[[Any], Any] | None:
    expected = callee.returns if returns is None and isinstance(callee, Flow) else returns
    if expected is None or expected is Any:
        return None
    check = adapter(expected).validate_python
    return lambda value: check(value, strict=False)
