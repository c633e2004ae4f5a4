"""A step that the code waits for, and a call that has not been issued yet."""

from __future__ import annotations

import warnings
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from penstock.flows.kernel import errors
from penstock.flows.kernel.loop import FlowFuture, FlowLoop
from penstock.flows.kernel.records import Mail, Status, StepKind
from penstock.flows.kernel.values import decode

T = TypeVar("T")


class Group:
    """Steps that one part of the code waits for together: it continues when ``left`` more of them have ended."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Handle(FlowFuture[T]):
    """A step that has been issued. Awaiting it returns its result; cancelling it drops the step."""

    __slots__ = ("_convert", "_drop", "group", "key", "kind", "no", "size")

    def __init__(
        self,
        kind: StepKind,
        no: int,
        key: str,
        *,
        loop: FlowLoop,
        drop: Callable[[int], None],
        convert: Callable[[Any], Any] | None = None,
        size: int = 1,
    ) -> None:
        super().__init__(loop=loop)
        self.kind = kind
        self.no = no  # of the step
        self.key = key  # of the step
        self.size = size  # child jobs
        self.group: Group | None = None
        self._drop = drop
        self._convert = convert

    def cancel(self, msg: Any = None) -> bool:
        """Drop the step: its job is cancelled, its timer or wait removed."""
        if not super().cancel(msg):
            return False
        self._drop(self.no)
        return True

    @property
    def waiters(self) -> int:
        """How many tasks and groups wait for this step."""
        return len(self._callbacks or ())

    def settle(self, mail: Mail) -> None:
        """End the step with a piece of mail."""
        if self.done():
            return
        if mail.status in {None, Status.COMPLETED}:
            self.settle_value(mail.value)
        else:
            self.set_exception(errors.of_end(mail.status, mail.fault, self.key))

    def settle_value(self, value: Any) -> None:
        """End the step with a JSON value."""
        try:
            decoded = decode(value)
            result = decoded if self._convert is None else self._convert(decoded)
        except errors.StepFailed as error:
            self.set_exception(error)
        except Exception as error:  # noqa: BLE001  (validators of the author's types run code of their own)
            self.set_exception(errors.StepFailed(f"its result cannot be used: {error}", step=self.key))
        else:
            self.set_result(result)


class Call(Coroutine[Any, Any, T]):
    """A step that is issued when it is awaited, or when a task made of it first runs.

    It is a coroutine to asyncio, so that tasks can be made of it. ``gather`` and ``race`` issue it without a task.
    """

    __slots__ = ("_issue", "_running", "_what")

    def __init__(self, what: str, issue: Callable[[], Handle[T]]) -> None:
        self._what = what
        self._issue: Callable[[], Handle[T]] | None = issue  # None once it was called
        self._running: Generator[Any, None, T] | None = None

    def issue(self) -> Handle[T]:
        """Issue the step now, in the current task."""
        issue, self._issue = self._issue, None
        if issue is None:
            raise RuntimeError(f"{self._what} was awaited before: a call can be awaited only once")
        return issue()

    def __await__(self) -> Generator[Any, None, T]:
        return self.issue().__await__()

    def send(self, value: Any) -> Any:
        if self._running is None:
            self._running = self.issue().__await__()
        return self._running.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        if self._running is None:
            self._issue = None
            raise kind if isinstance(kind, BaseException) else (value or kind())
        return self._running.throw(kind) if value is None else self._running.throw(kind, value, traceback)

    def close(self) -> None:
        self._issue = None
        if self._running is not None:
            self._running.close()

    def __del__(self) -> None:
        loop = events._get_running_loop()
        if self._issue is not None and isinstance(loop, FlowLoop) and not loop.stopped:
            warnings.warn(f"{self._what} was never awaited, so it was not issued", RuntimeWarning, stacklevel=2)
