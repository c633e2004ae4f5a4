"""The event loop of one run: first in, first out, without a selector, threads or a clock.

Callbacks run in the order in which they were scheduled, until none is left. Mail from outside (the end of
a step, a timer, a signal) is consumed one piece at a time, and the time of the loop is that of the piece. So code that
uses asyncio's own gather, wait, timeout, locks and queues runs in the same order whenever the mail is the same.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import AbstractEventLoop, Handle, TimerHandle, events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from penstock.flows.kernel.errors import FlowError, Stopped

T = TypeVar("T")

VERSION: Final = 1  # of the rules in this file: which callbacks run, in which order, for a piece of mail
# The interface of asyncio has many methods that a loop without a selector cannot have, and type checkers want them all.
_Loop: Any = object if TYPE_CHECKING else AbstractEventLoop
_CLOSING_ROUNDS: Final = 100  # times that an evicted coroutine may refuse to end


class FlowFuture(asyncio.Future[T]):
    """A future with a hash that follows from the order of creation, so that sets iterate alike on each replay."""

    __slots__ = ("_ordinal",)
    _ordinal: int

    def __init__(self, *, loop: FlowLoop) -> None:
        self._ordinal = loop.next_ordinal()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._ordinal


class FlowTask(asyncio.Task[T]):
    """A task with such a hash, and with its path: ``.3.1`` is the first task made by the third one of the main task."""

    __slots__ = ("_ordinal", "children", "names", "path")
    _ordinal: int

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], *, loop: FlowLoop, path: str, name: str | None, context: Context | None
    ) -> None:
        self._ordinal = loop.next_ordinal()  # before the task is put into sets
        self.path = path
        self.children = 0
        self.names: dict[str, int] = {}  # how many steps of each name it has issued
        super().__init__(coroutine, loop=loop, name=name or f"task{path}", context=context)

    def __hash__(self) -> int:
        return self._ordinal


class FlowLoop(_Loop):  # type: ignore[misc]  # its base is Any to type checkers
    """The event loop. It calls ``add_timer`` for a timer that is not due yet, ``remove_timer`` when it is cancelled."""

    def __init__(
        self,
        *,
        base: int,
        owner: object,
        add_timer: Callable[[TimerHandle], None],
        remove_timer: Callable[[TimerHandle], None],
    ) -> None:
        self.owner = owner  # the run
        self.now = 0.0  # seconds since 1970, of the mail that is being consumed
        self.stopped = False  # no callback runs any longer
        self.outside = 0  # tasks made by callbacks, outside of any task
        self.outside_names: dict[str, int] = {}
        self._ready: deque[Handle] = deque()
        self._base = base  # differs between runs, because asyncio keeps the tasks of all runs in one set
        self._ordinal = 0
        self._add_timer = add_timer
        self._remove_timer = remove_timer
        self._tasks: set[FlowTask[Any]] = set()
        self._prune_at = 64
        self._generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()

    def next_ordinal(self) -> int:
        self._ordinal += 1
        return self._base + self._ordinal

    # Running

    def run_until_idle(self) -> None:
        """Run callbacks until every task waits, or the run is stopped."""
        ready = self._ready
        before = self._enter()
        try:
            while ready and not self.stopped:
                handle = ready.popleft()
                if not handle.cancelled():
                    try:
                        handle._run()
                    except (SystemExit, KeyboardInterrupt):  # it is kept by the task that raised it
                        continue
        finally:
            self._leave(before)

    def _enter(self) -> tuple[Any, ...]:
        """Become the running loop of this thread; return what has to be restored."""
        before = (events._get_running_loop(), sys.get_asyncgen_hooks(), gc.isenabled())
        gc.disable()  # the collector would run finalizers at times that differ between replays
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._generators.add, self._finalize)
        return before

    def _leave(self, before: tuple[Any, ...]) -> None:
        loop, hooks, collecting = before
        sys.set_asyncgen_hooks(*hooks)
        events._set_running_loop(loop)
        if collecting:
            gc.enable()

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.discard(generator)
        if not self.stopped and events._get_running_loop() is self:
            self.create_task(generator.aclose())

    def unwind(self) -> None:
        """End all tasks by raising Stopped in them. Their ``finally`` blocks run, and issue no steps."""
        self.stopped = True
        self._ready.clear()
        before = self._enter()
        try:
            for task in sorted((one for one in self._tasks if not one.done()), key=hash, reverse=True):
                self._end_task(task)
            for generator in list(self._generators):
                _end(generator.aclose())
        finally:
            self._leave(before)
        self._ready.clear()
        self._tasks.clear()

    def _end_task(self, task: FlowTask[Any]) -> None:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        asyncio.tasks._enter_task(self, task)
        try:
            _end(task.get_coro())
        finally:
            asyncio.tasks._leave_task(self, task)

    # What tasks and futures need from a loop

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        handle = TimerHandle(when, callback, args, self, context)
        if when <= self.now:
            self._ready.append(handle)
        else:
            handle._scheduled = True  # type: ignore[attr-defined]
            self._add_timer(handle)
        return handle

    def fire(self, handle: Handle) -> None:
        """Run the callback of a timer, which has become due."""
        self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        if handle._scheduled:  # type: ignore[attr-defined]
            self._remove_timer(handle)

    def create_future(self) -> FlowFuture[Any]:
        return FlowFuture(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **_more: Any
    ) -> FlowTask[T]:
        return self.start_task(coro, self.next_path(), name=name, context=context)

    def start_task(
        self, coro: Coroutine[Any, Any, T], path: str, *, name: str | None = None, context: Context | None = None
    ) -> FlowTask[T]:
        """Start a task with this path. The loop keeps a reference until the task is done."""
        task = FlowTask(coro, loop=self, path=path, name=name, context=context)
        self._tasks.add(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = {one for one in self._tasks if not one.done()}
            self._prune_at = max(64, 2 * len(self._tasks))
        return task

    def current(self) -> FlowTask[Any] | None:
        """Return the task that runs, or None within other callbacks."""
        return asyncio.current_task(self)  # type: ignore[return-value]  # there are no other tasks on it

    def next_path(self) -> str:
        """Return the path of the next task that the current task makes."""
        parent = self.current()
        if parent is None:
            self.outside += 1
            return f"~{self.outside}"
        parent.children += 1
        return f"{parent.path}.{parent.children}"

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Print an exception that no code waits for."""
        error = context.get("exception")
        if not self.stopped and not isinstance(error, Stopped):
            print(f"{context.get('message')}: {error!r}", file=sys.stderr)  # noqa: T201  (the host logs the lines)

    # What would leave the loop

    def run_in_executor(self, *_args: Any, **_more: Any) -> Any:
        """Refuse: threads have no order that a replay could repeat."""
        raise FlowError("flow code cannot use threads: do it in a function for run.side_effect, or as a job")

    def call_soon_threadsafe(self, *_args: Any, **_more: Any) -> Any:
        """Refuse, as above."""
        raise FlowError("flow code cannot be called from other threads")


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(_self: FlowLoop, *_args: Any, **_more: Any) -> Any:
        raise FlowError(
            f"flow code cannot use {name} of its event loop, whose outcome would differ from replay to replay: "
            "do it in a function for run.side_effect, or as a job"
        )

    return refuse


for _name in vars(AbstractEventLoop).keys() - vars(FlowLoop).keys():
    if not _name.startswith("_"):
        setattr(FlowLoop, _name, _refusal(_name))


def _end(coroutine: Any) -> None:
    """Throw ``Stopped`` into a coroutine until it has ended. Give up after a hundred times: its code may catch it."""
    for _ in range(_CLOSING_ROUNDS):
        try:
            coroutine.throw(Stopped())
        except BaseException:  # noqa: BLE001  (it has ended, in whichever way)
            return
