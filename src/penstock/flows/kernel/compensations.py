"""Compensations: functions that undo what a run has done, executed in reverse order when it fails or is cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from penstock.flows.kernel.errors import Stopped, fault_of
from penstock.flows.kernel.ledger import Ledger
from penstock.flows.kernel.loop import FlowLoop
from penstock.flows.kernel.steps import Handle

Compensate = Callable[..., Coroutine[Any, Any, object]]


@dataclass(slots=True)
class Compensation:
    """A registered function with its arguments."""

    no: int  # of the COMPENSATION step
    name: str
    function: Compensate
    arguments: tuple[Any, ...] = ()
    handle: Handle[Any] | None = (
        None  # of the step to undo; its result is the argument, or None if it has not completed
    )

    def start(self) -> Coroutine[Any, Any, object]:
        """Call the function."""
        handle = self.handle
        if handle is None:
            return self.function(*self.arguments)
        known = handle.done() and not handle.cancelled() and handle.exception() is None
        return self.function(handle.result() if known else None)


class Compensations:
    """The compensations of one run. They run in tasks of their own, which a cancellation of the run does not reach."""

    def __init__(self, loop: FlowLoop, ledger: Ledger) -> None:
        self._loop = loop
        self._ledger = ledger
        self._registered: list[Compensation] = []
        self._running: Awaitable[None] | None = None
        self.done = False

    def add(self, compensation: Compensation) -> None:
        """Register a function, to run before those that were registered earlier."""
        self._registered.append(compensation)

    def start(self) -> bool:
        """Start the compensations unless they have started; return False if there are none."""
        if self._running is None:
            if not self._registered:
                self.done = True
                return False
            self._running = self._loop.start_task(self._run(), "!", name="compensations")
        return True

    async def _run(self) -> None:
        while self._registered:
            one = self._registered.pop()
            try:
                await self._loop.start_task(one.start(), f"!{one.no}", name=one.name)
            except Stopped:
                raise
            except BaseException as error:
                self._ledger.hold(
                    "compensation",
                    f"compensation {one.name} failed: {fault_of(error).message}. Correct its code, or what "
                    "it depends on, and release the run, or end it",
                    no=one.no,
                )
                raise Stopped from error
        self.done = True
