"""Submit child jobs: calls of models, queues and flows, and maps."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack, overload

from penstock.flows.kernel import effects, groups, targets
from penstock.flows.kernel.compensations import Compensate
from penstock.flows.kernel.current import Seconds, converter, current
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import OnParentEnd, StepKind
from penstock.flows.kernel.steps import Call, Handle
from penstock.flows.kernel.targets import Callee, FlowName, Queue
from penstock.flows.kernel.undoing import registered
from penstock.flows.kernel.values import encode
from penstock.suggestions import did_you_mean

T = TypeVar("T")


def queue(task_type: str, model_profile: str) -> Queue:
    """Return a queue of jobs, for ``call``, ``start`` and ``map``."""
    return Queue(task_type, model_profile)


def flow(name: str, version: str) -> FlowName:
    """Return a flow by its name, for ``call``, ``start`` and ``map``."""
    return FlowName(name, version)


class QueueOptions(TypedDict, total=False):
    """How a child job runs. Options that are missing come from the flow, or from the queue."""

    priority: int | None
    max_attempts: int | None
    timeout: Seconds | None  # of an attempt
    concurrency_key: str | None
    on_parent_end: OnParentEnd | str | None


class NoOptions(TypedDict):
    """The options of a map of an async function."""


class CallOptions(QueueOptions, total=False):
    """The options of a call."""

    key: str | None  # identifies the step; by default, the place of the call in the code does
    returns: Any  # type of the result; by default the one a decorated flow declares, otherwise plain JSON
    compensate: Compensate | None  # undoes the call; receives its result, or None if it has not completed


@overload
def call(callee: Flow[..., T], input: Mapping[str, Any], **options: Unpack[CallOptions]) -> Call[T]: ...


@overload
def call(callee: str | Queue | FlowName, input: Any, **options: Unpack[CallOptions]) -> Call[Any]: ...


def call(callee: Any, input: Any, **options: Unpack[CallOptions]) -> Call[Any]:  # noqa: A002
    """Submit a child job and return its result: ``await run.call("whisper", {"audio": …})``. Raises StepFailed.

    The job is submitted when the call is awaited. A task made from the call, ``gather`` and ``race`` await it, too.
    """
    _refuse_unknown(options, CallOptions)
    returns, undo = options.get("returns"), options.get("compensate")
    stated = _stated(options)
    name = targets.name_of(callee)
    written = encode(input, f"the input of {name}")
    convert = converter(returns, callee)

    def issue() -> Handle[Any]:
        run = current()
        compensation = registered(run, undo)
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
    """Submit a child job and continue: await the handle for the result, or cancel it to cancel the job."""
    begun: Call[Any] = call(callee, input, **options)
    return begun.issue()


def map(  # noqa: A001
    callee: Callee | Callable[[Any], Coroutine[Any, Any, Any]],
    items: Iterable[Any],
    *,
    limit: int | None = None,
    returns: Any = None,
    return_exceptions: bool = False,
    key: str | Callable[[Any], str] | None = None,
    **options: Unpack[QueueOptions],
) -> Coroutine[Any, Any, list[Any]]:
    """Submit a child job for each item, at most ``limit`` at a time, and return their results in the same order.

    It is one step, however many items there are. The first failure ends the others and is raised, unless
    ``return_exceptions``: then its exception takes the place of each result that is missing.

    An async function as ``callee`` is flow code: it runs for each item in a task of its own, and its steps are steps
    of this run. Then ``key`` is a function that returns a name for each item, which takes the place of its index in the
    keys of its steps. Otherwise ``key`` identifies the step.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if inspect.iscoroutinefunction(callee):
        _refuse_unknown(options, NoOptions)
        given = list(items)
        return groups.each(
            current().loop, callee, given, names=_names(given, key), limit=limit, return_exceptions=return_exceptions
        )
    if callable(key):
        raise TypeError("the items of a map of jobs have no keys, as they are no steps: key must be a text for the map")
    _refuse_unknown(options, QueueOptions)
    stated = _stated(options)
    name = targets.name_of(callee)
    written = [encode(item, f"items[{index}]") for index, item in enumerate(items)]
    convert = converter(returns, callee)

    def issue() -> Handle[Any]:
        run = current()
        handle: Handle[Any] = run.step(
            StepKind.MAP,
            name,
            key=key,
            items=written,
            target=targets.target_of(callee, stated, run.flow),
            limit=limit,
            fail_fast=not return_exceptions,
            convert=lambda ends: [effects.item(end, index, handle.key, convert) for index, end in enumerate(ends)],
            size=len(written),
        )
        return handle

    return Call(f"run.map of {name}", issue)


def _names(items: Sequence[Any], key: str | Callable[[Any], str] | None) -> list[str]:
    """Return the names of the items of a map of an async function. Raises TypeError and ValueError."""
    if key is None:
        return [str(index) for index in range(len(items))]
    if not callable(key):
        raise TypeError("key must be a function that returns a name for each item of a map of an async function")
    names = [targets.checked_key(key(item)) for item in items]
    for name, count in Counter(names).items():
        if count > 1 or "]" in name:
            problem = f"is the name of {count} items" if count > 1 else "holds ]"
            raise ValueError(f"the key {name!r} {problem}: the names of items must differ, and have no ]")
    return names


def _stated(options: QueueOptions) -> targets.Options:
    return targets.options_of(
        options.get("priority"),
        options.get("max_attempts"),
        options.get("timeout"),
        options.get("concurrency_key"),
        options.get("on_parent_end"),
    )


def _refuse_unknown(options: Mapping[str, Any], known: Any) -> None:
    for name in options.keys() - known.__annotations__.keys():
        raise TypeError(f"{name} is not an option of this call{did_you_mean(name, sorted(known.__annotations__))}")
