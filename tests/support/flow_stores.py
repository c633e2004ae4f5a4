"""A store of flow runs in memory: it plays what the tables and the runner do, with the rules of the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Raw

from penstock.failures import Category
from penstock.flows.kernel.loop import VERSION
from penstock.flows.kernel.records import (
    Completed,
    Failed,
    Fault,
    Held,
    History,
    Mail,
    MailKind,
    Outcome,
    Recorded,
    Status,
    Step,
    StepKind,
    StoredStep,
    StoredTurn,
    Turn,
)
from penstock.flows.process.flow_process import FlowProcess

START = 1_000.0


def raw(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def fault(message: str) -> Fault:
    return Fault(category=Category.INTERNAL, message=message)


@dataclass
class StoredRun:
    """One run: what is stored of it, and the mail that it has not consumed."""

    flow: str
    input: Any
    version: str = "1"
    run_id: UUID = field(default_factory=uuid4)
    turns: list[StoredTurn] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    consumed: list[Mail] = field(default_factory=list)
    unread: list[Mail] = field(default_factory=list)
    outcome: Outcome | None = None
    dropped: set[int] = field(default_factory=set)
    last: Turn | None = None
    clock: float = START
    _ids: int = 0

    def history(self) -> History:
        return History(
            run_id=self.run_id,
            flow=self.flow,
            version=self.version,
            loop=VERSION,
            input=raw(self.input),
            started_at=START,
            turns=list(self.turns),
            steps=[
                StoredStep(
                    no=step.no,
                    key=step.key,
                    kind=step.kind,
                    name=step.name,
                    input_hash=step.input_hash,
                    target=step.target,
                )
                for step in self.steps
            ],
            mail=list(self.consumed),
        )

    def commit(self, turn: Turn) -> None:
        """Store a turn, and the one that follows it at once; what it recorded comes back as mail."""
        assert turn.number == len(self.turns)
        if turn.empty:
            self.last = turn
            return
        assert turn.first_no == len(self.steps)
        taken = {mail.id: mail for mail in self.unread}
        mail = [taken[one] for one in turn.taken]
        at = START if not self.turns else mail[0].at if mail else self.clock
        self.turns.append(
            StoredTurn(number=turn.number, at=at, taken=turn.taken, first_no=turn.first_no, patched=turn.patched)
        )
        self.consumed += mail
        self.unread = [one for one in self.unread if one.id not in turn.taken]
        self.steps += turn.steps
        self.dropped.update(turn.dropped)
        self.last = turn
        self.outcome = turn.outcome
        newest = self._ids
        for recorded in turn.recorded:
            self.record(recorded, turn.recorded_at)
        if turn.then is not None and turn.then.taken == list(range(newest + 1, self._ids + 1)):
            self.commit(turn.then)

    # What comes from outside

    def _post(self, kind: MailKind, *, at: float | None = None, **more: Any) -> Mail:
        self._ids += 1
        mail = Mail(id=self._ids, kind=kind, at=self.clock if at is None else at, **more)
        self.unread.append(mail)
        return mail

    def record(self, recorded: Recorded, at: float | None) -> None:
        status = Status.COMPLETED if recorded.fault is None else Status.FAILED
        self._post(MailKind.ENDED, no=recorded.no, status=status, value=recorded.value, fault=recorded.fault, at=at)

    def complete(self, no: int, value: Any) -> None:
        self._post(MailKind.ENDED, no=no, status=Status.COMPLETED, value=raw(value))

    def fail(self, no: int, fault: Fault, status: Status = Status.FAILED) -> None:
        self._post(MailKind.ENDED, no=no, status=status, fault=fault)

    def fire(self, no: int) -> None:
        due = self.step(no).due
        assert due is not None
        self.clock = max(self.clock, due)
        self._post(MailKind.FIRED, no=no)

    def signal(self, name: str, payload: Any = None) -> None:
        self._post(MailKind.SIGNAL, name=name, value=raw(payload))

    def cancel(self) -> None:
        self._post(MailKind.CANCEL)

    # What is open

    def step(self, no: int) -> Step:
        return self.steps[no]

    def ended(self) -> set[int]:
        return {one.no for one in (*self.consumed, *self.unread) if one.no is not None}

    def open(self, *kinds: StepKind) -> list[Step]:
        """Return the steps whose end has not come and which were not dropped."""
        over = self.ended() | self.dropped
        return [step for step in self.steps if step.no not in over and (not kinds or step.kind in kinds)]

    def keys(self) -> list[str]:
        return [step.key for step in self.steps]


Answer = Callable[[Step], Any]


def complete_all(run: StoredRun, answer: Answer, kinds: Iterable[StepKind] = (StepKind.CALL,)) -> None:
    """Complete every open call with what ``answer`` returns; an exception of it becomes the fault."""
    for step in run.open(*kinds):
        try:
            run.complete(step.no, answer(step))
        except Exception as error:  # noqa: BLE001  (a step may fail in any way)
            run.fail(step.no, fault(str(error)))


async def result(process: FlowProcess, flow: str, value: Any = None, **more: Any) -> Any:
    """Return the result of a run, whose calls return their input, or its fault's message."""
    run = StoredRun(flow, {} if value is None else value, **more)
    turn = await process.begin(run.history())
    while True:
        match outcome := turn.last.outcome:
            case Completed():
                return msgspec.json.decode(outcome.result)
            case Failed():
                return outcome.fault.message
            case Held():
                return outcome
        run.commit(turn)
        complete_all(run, lambda step: msgspec.json.decode(step.input or b"null"))
        turn = await process.deliver(run.run_id, run.unread)
