"""One run in memory: it replays its history, consumes mail and makes turns.

The owner calls ``begin`` once, then ``deliver`` for more mail, and after each of them ``turn`` when ``effects`` (the
functions that have to run elsewhere) have ended. A turn that is not stored leaves the run ahead of its history: call
``unwind`` and begin again.
"""

from __future__ import annotations

import inspect
from asyncio import TimerHandle
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any

from msgspec import Raw, structs

from penstock.flows.kernel import loop as loops
from penstock.flows.kernel import needs, outcomes
from penstock.flows.kernel.ahead import Ahead, mail_of
from penstock.flows.kernel.compensations import Compensations
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.errors import Stopped
from penstock.flows.kernel.ledger import Ledger
from penstock.flows.kernel.loop import FlowLoop, FlowTask
from penstock.flows.kernel.records import (
    Fault,
    History,
    Mail,
    MailKind,
    Outcome,
    Recorded,
    StepKind,
    Turn,
)
from penstock.flows.kernel.steps import Handle

Effect = tuple[
    int, Awaitable[Any], Context
]  # the number of a RECORD step, and what computes its value in which context


class Run:
    """A run of a flow. All methods are called on one thread."""

    def __init__(self, flow: Flow[..., Any], history: History, *, effects: bool = True, strict: bool = False) -> None:
        """Without ``effects`` recorded functions are not executed; ``strict`` makes a changed input a mismatch."""
        self.flow = flow
        self.id = history.run_id
        self.loop = FlowLoop(
            base=int.from_bytes(history.run_id.bytes[-5:]) << 20,
            add_timer=self._add_timer,
            remove_timer=self._remove_timer,
            owner=self,
        )
        self.ledger = Ledger(history, self.loop, strict=strict)
        self.open: dict[int, Handle[Any] | TimerHandle] = {}  # steps that the code waits for, by number
        self.effects: list[Effect] = []  # must end before the turn does
        self.executes = effects
        self.compensations = Compensations(self.loop, self.ledger)
        self.inbox: dict[str, deque[Raw | None]] = {}  # signals that no step waits for yet, by name
        self.waiting: dict[str, deque[Handle[Any]]] = {}  # waits for signals, by name
        self._history: History | None = history
        self._timer_nos: dict[int, int] = {}  # by the identity of the loop's handle
        self._main: FlowTask[bytes] | None = None
        self._cancelled = False  # a cancellation has been consumed
        self._reason: Fault | None = None  # with which it fails, because it was ended and not cancelled
        self._number = len(history.turns)
        self._newest = 0  # the id of the newest mail that is known
        self.ahead: Ahead | None = None  # set while the turn consumes values that are not stored yet
        self.outcome: Outcome | None = None

    # From outside

    def begin(self, mail: Sequence[Mail]) -> None:
        """Replay the history, or start the code if it has none, and consume the mail."""
        history = self.repeat()
        if self.outcome is not None:
            self.ledger.hold_changed(self._what_it_waits_for())
        self.ledger.forget_history()
        if self.ledger.held is None:
            self.ledger.begin_turn()
            self._newest = max((one for turn in history.turns for one in turn.taken), default=0)
            if self._main is None:
                self._start(history.input)
            self._consume(mail)

    def repeat(self) -> History:
        """Only replay the history, and return it. Its mail and steps can be large, so they are not kept."""
        history, self._history = self._history, None
        if history is None:
            raise RuntimeError("the run has begun")
        if history.loop == loops.VERSION:
            self.loop.now = history.started_at
            self._replay(history)
        else:
            self.ledger.hold("broken", f"the run needs version {history.loop} of the loop, not {loops.VERSION}")
        return history

    def deliver(self, mail: Sequence[Mail]) -> None:
        """Consume more mail, in a new turn or in the one that ``go_ahead`` has begun. Raises Overtaken."""
        ahead, self.ahead = self.ahead, None
        if ahead is None:
            self.ledger.begin_turn()
        else:
            mail = ahead.confirm(mail)
        self._consume(mail)

    def go_ahead(self, turn: Turn) -> Turn:
        """Let the code continue with the values that its last turn has recorded, before they are stored.

        Return the turn with the next one, unless that calls functions to record their values: they are called by the
        next ``deliver``, when the values are stored.
        """
        self.ledger.begin_turn()
        self.ahead = ahead = Ahead(mail_of(turn, self._newest + 1, at=self.loop.now))
        self._consume(ahead.mail)
        if ahead.calls:
            return turn
        self.ahead = None
        return structs.replace(turn, then=self.turn())

    def recorded(self, outcome: Recorded) -> None:
        """Add the outcome of an effect to the turn."""
        self.ledger.record(outcome)

    def turn(self, now: float = 0.0) -> Turn:
        """End the turn and return it. ``now`` is the time, if it is known."""
        if not self.ended:
            self.effects = []
        if self.ledger.held is None and self.outcome is None and not needs.can_go_on(self.open.values()):
            self.ledger.hold(
                "broken",
                "the code can never continue: each of its tasks waits for something that no step or signal will end",
            )
        draft = self.ledger.draft
        draft.recorded.sort(key=_no)  # effects end in any order
        held = self.ledger.held
        if held is not None:
            return Turn(number=self._number, first_no=draft.first_no, outcome=held)
        turn = Turn(
            number=self._number,
            taken=draft.taken,
            first_no=draft.first_no,
            steps=draft.steps,
            recorded=draft.recorded,
            recorded_at=round(max(self.loop.now, now), 6) if draft.recorded else None,
            dropped=draft.dropped,
            patched=draft.patched,
            warnings=draft.warnings,
            need=needs.need(self.open.values()),
            linger=needs.expects_mail_soon(self.open.values()),
            outcome=self.outcome,
        )
        if not turn.empty:
            self._number += 1
        return turn

    @property
    def ended(self) -> bool:
        """Whether the run does not continue in this process: it has ended or is held."""
        return self.ledger.held is not None or self.outcome is not None

    def unwind(self) -> None:
        """End the run's tasks, and drop effects that have not begun; the owner cancels those that have."""
        self.loop.unwind()
        self.open.clear()
        for _no, effect, _context in self.effects:
            if inspect.iscoroutine(effect) and inspect.getcoroutinestate(effect) == inspect.CORO_CREATED:
                effect.close()

    # From flow code

    def check_usable(self) -> None:
        """Raise Stopped when the run is held or evicted."""
        if self.loop.stopped:
            raise Stopped

    def step(
        self,
        kind: StepKind,
        name: str,
        *,
        convert: Callable[[Any], Any] | None = None,
        size: int = 1,
        **more: Any,
    ) -> Handle[Any]:
        """Issue a step that will end; return its handle.

        In a run that is stopped it is never issued and never ends: code that catches Stopped in a loop then waits,
        where it would otherwise catch it for ever.
        """
        if self.loop.stopped:
            return Handle(kind, -1, "", loop=self.loop, drop=self._drop)
        no, key = self.ledger.issue(kind, name, **more)
        handle: Handle[Any] = Handle(kind, no, key, loop=self.loop, drop=self._drop, convert=convert, size=size)
        self.open[no] = handle
        return handle

    def note(self, kind: StepKind, name: str, **more: Any) -> int:
        """Issue a step that has no end; return its number."""
        self.check_usable()
        return self.ledger.issue(kind, name, **more)[0]

    def wait_signal(self, name: str, *, key: str | None, convert: Callable[[Any], Any] | None) -> Handle[Any]:
        """Issue a wait for a signal. The oldest signal of that name which no step has taken ends it at once."""
        handle = self.step(StepKind.SIGNAL, name, key=key, convert=convert)
        if arrived := self.inbox.get(name):
            self._end_wait(handle, arrived.popleft())
        else:
            self.waiting.setdefault(name, deque()).append(handle)
        return handle

    # Mail

    def _replay(self, history: History) -> None:
        by_id = {mail.id: mail for mail in history.mail}
        for index, turn in enumerate(history.turns):
            last = index + 1 == len(history.turns)
            self.ledger.begin_replay(len(history.steps) if last else history.turns[index + 1].first_no, turn.patched)
            if self._main is None:
                self._start(history.input)
            for mail_id in turn.taken:
                if mail_id not in by_id:
                    self.ledger.hold("broken", f"the history of the run lacks its mail {mail_id}")
                if self.ledger.held is not None:
                    return
                self._consume_one(by_id[mail_id])
            self.ledger.end_replay(self._what_it_waits_for())
            if self.outcome is not None and not last:
                self.ledger.hold_changed(f"ended ({type(self.outcome).__name__.lower()})")
            if self.ledger.held is not None:
                return

    def _consume(self, mail: Sequence[Mail]) -> None:
        for one in mail:
            if self.ended:
                return
            self.ledger.draft.taken.append(one.id)
            self._newest = max(self._newest, one.id)
            self._consume_one(one)

    def _consume_one(self, mail: Mail) -> None:
        self.loop.now = max(self.loop.now, mail.at)
        match mail.kind:
            case MailKind.ENDED | MailKind.FIRED:
                self._end_step(mail)
            case MailKind.SIGNAL:
                self._take_signal(mail)
            case MailKind.CANCEL:
                self._cancelled = True
                self._reason = self._reason or mail.fault
                if self._main is not None:
                    self._main.cancel("the run was cancelled")
        self._go_on()

    def _end_step(self, mail: Mail) -> None:
        found = self.open.pop(-1 if mail.no is None else mail.no, None)
        match found:
            case Handle():
                found.settle(mail)
            case TimerHandle():
                self._timer_nos.pop(id(found), None)
                self.loop.fire(found)
            case None:
                pass  # the code has dropped the step

    def _take_signal(self, mail: Mail) -> None:
        waiting = self.waiting.get(mail.name)
        while waiting:
            handle = waiting.popleft()
            if not handle.done():
                self._end_wait(handle, mail.value)
                return
        kept = None if mail.value is None else mail.value.copy()  # a view would keep the whole frame in memory
        self.inbox.setdefault(mail.name, deque()).append(kept)

    def _end_wait(self, handle: Handle[Any], value: Raw | None) -> None:
        self.open.pop(handle.no, None)
        self.ledger.drop(handle.no)  # the stored wait can be removed
        handle.settle_value(value)

    # The code

    def _start(self, given: Raw) -> None:
        self._main = self.loop.start_task(self._code(bytes(given)), "", name="flow", context=self.flow.context.copy())
        self._go_on()

    async def _code(self, given: bytes) -> bytes:
        return self.flow.result(await self.flow.function(**self.flow.arguments(given)))

    def _go_on(self) -> None:
        self.loop.run_until_idle()
        main = self._main
        if main is None or not main.done() or self.loop.stopped:
            return
        failed = main.cancelled() or main.exception() is not None
        if failed and self.flow.context.copy().run(self.compensations.start):
            self.loop.run_until_idle()
        if self.ledger.held is None and (not failed or self.compensations.done):
            self.outcome = outcomes.outcome_of(main, cancelled=self._cancelled, reason=self._reason)

    # Timers and dropped steps

    def _add_timer(self, handle: TimerHandle) -> None:
        if self.loop.stopped:
            return  # it never fires: see ``step``
        no, _key = self.ledger.issue(StepKind.TIMER, "timer", due=handle.when())
        self.open[no] = handle
        self._timer_nos[id(handle)] = no

    def _remove_timer(self, handle: TimerHandle) -> None:
        no = self._timer_nos.pop(id(handle), None)
        if no is not None:
            self._drop(no)

    def _drop(self, no: int) -> None:
        if self.open.pop(no, None) is not None and not self.loop.stopped:
            self.ledger.drop(no)

    def _what_it_waits_for(self) -> str:
        if self.outcome is not None:
            return f"it has ended ({type(self.outcome).__name__.lower()})"
        keys = [one.key for one in self.open.values() if isinstance(one, Handle)]
        return f"it waits for {', '.join(keys[:5])}" if keys else "it waits"


def _no(outcome: Recorded) -> int:
    return outcome.no
