"""Drive a flow in this process against a store in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import msgspec

from penstock.flows.kernel import asyncio_order, effects
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import Completed, Failed, Held, StepKind, Turn
from penstock.flows.kernel.resident import Run
from tests.support.flow_stores import Answer, StoredRun, complete_all

asyncio_order.install()


class Driver:
    """A run and its code. With ``replays`` the run is forgotten after each turn, and begun again from its history.

    With ``ahead`` the code gets the values that it has recorded before they are stored.
    """

    def __init__(
        self,
        flow: Flow[..., Any],
        input: Any = None,  # noqa: A002
        *,
        replays: bool = True,
        ahead: bool = True,
        **more: Any,
    ) -> None:
        self.flow = flow
        self.run = StoredRun(flow.name, {} if input is None else input, flow.version, **more)
        self.replays = replays
        self.ahead = ahead
        self.resident: Run | None = None

    def turn(self) -> Turn:
        """Let the code make a turn of all unread mail; store it unless the run is held."""
        mail = list(self.run.unread)
        if self.resident is None:
            self.resident = Run(self.flow, self.run.history())
            self.resident.begin(mail)
        else:
            self.resident.deliver(mail)
        if self.resident.effects and not self.resident.ended:
            for no, awaitable, _context in self.resident.effects:
                self.resident.recorded(_elsewhere(effects.outcome(no, awaitable)))
        turn = self.resident.turn()
        if self.ahead and turn.recorded and not self.resident.ended:
            turn = self.resident.go_ahead(turn)
        if self.replays or (self.resident.ended and self.resident.ahead is None):
            self.resident.unwind()
            self.resident = None
        if not isinstance(turn.outcome, Held):
            self.run.commit(turn)
        return turn.last

    def finish(self, answer: Answer = lambda _step: None, *, rounds: int = 1000) -> Any:
        """Make turns until the run ends, completing calls and firing timers; return the result, or the fault's text."""
        for _ in range(rounds):
            turn = self.turn()
            match turn.outcome:
                case Completed():
                    return msgspec.json.decode(turn.outcome.result)
                case Failed():
                    return turn.outcome.fault.message
                case None:
                    pass
                case _:
                    return turn.outcome
            if not self.run.unread:
                complete_all(self.run, answer)
            if not self.run.unread:
                for step in self.run.open(StepKind.TIMER):
                    self.run.fire(step.no)
            assert self.run.unread, f"the run waits for {self.run.open()}"
        raise AssertionError("the run does not end")


def _elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an ordinary loop in another thread, as the program does."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(coroutine)))
    thread.start()
    thread.join()
    return found[0]
