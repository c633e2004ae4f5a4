"""The records between flow code and what is stored: the history of a run, and the turns that append to it.

A **run** is one execution of a flow; it is a job. A **step** is something that its code has issued: a child job, a map,
a timer, a wait, a recorded value. Steps are numbered in the order in which they are issued (``no``, from 0) and
identified by ``key``, which follows from the structure of the code: task path, name and occurrence.

**Mail** is what comes to a run from outside, in one order (``id``): the end of a step, a signal, a cancellation. A run
consumes a piece of mail at a time and then runs until every task waits. A **turn** is what one activation did: the mail
that it consumed, in order, and what it issued. Its steps take effect when it is committed, and only then.
A history (the input, the steps, the turns and the mail that they consumed) is therefore enough to repeat a run.

Values of users (input, result, payload) are JSON in bytes; nothing on the way parses them. The records themselves
travel as JSON too, so that values stand in them as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Raw, Struct

from penstock.failures import Category

# msgspec cannot decode the union of Raw and None, so at run time the type is Raw alone; fields that are None are left
# out when a record is encoded.
if TYPE_CHECKING:
    OptionalRaw = Raw | None
else:
    OptionalRaw = Raw


class StepKind(StrEnum):
    CALL = "call"  # a child job; its end comes as mail
    MAP = "map"  # one child job per item, as one step
    TIMER = "timer"  # ends at a time
    EVENT = "event"  # ends with an event of the tenant whose kind and data match
    SIGNAL = "signal"  # a wait for a signal; signals come as mail whether or not a step waits
    RECORD = "record"  # a value computed once by the flow's process, which reports it in a turn
    PUBLISH = "publish"  # store an event; has no end
    PROGRESS = "progress"  # set the progress of the run; has no end
    COMPENSATION = "compensation"  # a registered compensation; has no end of its own


class OnParentEnd(StrEnum):
    CANCEL = "cancel"
    ABANDON = "abandon"


class Target(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call or a map submits. A flow as target has the task type ``flow`` and the profile ``name@version``."""

    task_type: str
    model_profile: str
    priority: int | None = None  # None: that of the run
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    concurrency_key: str | None = None
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step, as issued by the code of a flow."""

    no: int
    key: str
    kind: StepKind
    name: str  # the model or queue of a call, the signal, the event kind, or the name of a recorded value
    input_hash: bytes = b""  # 16 bytes; a difference on replay is a warning
    target: Target | None = None  # of CALL and MAP
    input: OptionalRaw = None  # of CALL; the data of PUBLISH and PROGRESS; the conditions of EVENT
    items: list[Raw] | None = None  # of MAP
    limit: int | None = None  # of MAP: the maximum number of child jobs at a time
    fail_fast: bool = True  # of MAP: end at the first failure
    due: float | None = None  # of TIMER: seconds since 1970 by the database clock


class Fault(Struct, frozen=True, kw_only=True):
    """Why a step or a run has failed."""

    category: Category
    message: str
    type: str = ""  # the name of the exception's class, where there was one


class MailKind(StrEnum):
    ENDED = "ended"  # of a CALL, MAP, EVENT or RECORD
    FIRED = "fired"  # of a TIMER
    SIGNAL = "signal"
    CANCEL = "cancel"


class Status(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Mail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One piece of mail of a run. Mail is ordered by ``id``."""

    id: int
    kind: MailKind
    at: float  # seconds since 1970 by the database clock; the time of the run while it consumes this
    no: int | None = None  # the step that ended or fired
    name: str = ""  # of a signal
    status: Status | None = None  # of an end
    value: OptionalRaw = None  # the result of an end (of a MAP: a list of MapItems), the payload of a signal or event
    fault: Fault | None = None


class MapItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one item of a MAP, in the order of its items.

    A MAP that fails fast ends with the fault of the first item that failed, and with no list; any other ends as
    completed, with an end for every item.
    """

    status: Status
    value: OptionalRaw = None
    fault: Fault | None = None


class Recorded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a RECORD step. It is stored as mail, so the code sees it only after it has been committed."""

    no: int
    value: OptionalRaw = None
    fault: Fault | None = None


class Completed(Struct, frozen=True, kw_only=True, tag="completed"):
    """The code has returned."""

    result: Raw


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The code has raised an exception."""

    fault: Fault
    stack: str = ""  # frames of flow code only; bounded


class Cancelled(Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The code has ended on a cancellation."""


class Held(Struct, frozen=True, kw_only=True, tag="held"):
    """The run cannot continue with this code. Nothing of the turn is stored; a person or other code must release it."""

    reason: str  # "changed", "compensation" or "broken"
    message: str
    no: int | None = None  # the step at which code and history differ
    stored: str = ""  # what the history has there, in words
    found: str = ""  # what the code does there, in words


Outcome = Completed | Failed | Cancelled | Held


class Turn(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one activation of a run did. It is stored as a whole or not at all."""

    number: int  # of the run, from 0
    taken: list[int] = []  # ids of the consumed mail, in order; the first turn consumes the input before it
    first_no: int  # the number of the first step that it issued, or would have
    steps: list[Step] = []
    recorded: list[Recorded] = []
    recorded_at: float | None = None  # the time of the recorded values, as that of other mail
    dropped: list[int] = []  # steps that the code no longer waits for: child jobs to cancel, timers and waits to remove
    patched: list[str] = []  # names that ``patched`` returned True for, first in this turn
    warnings: list[str] = []
    need: int = 1  # steps that must end before the code can continue; failures and other mail always wake it
    linger: bool = True  # whether the next mail is expected soon, so that the run should stay in memory
    outcome: Outcome | None = None  # None: the code waits
    # The next turn, if the code has continued with the values that this one has recorded, as the mail that they will
    # be. Both are stored together, or this one alone: then the run is begun again.
    then: Turn | None = None

    @property
    def last(self) -> Turn:
        return self.then or self

    @property
    def empty(self) -> bool:
        """Whether it only brought a run to where it was. It is not stored, and the next turn has its number."""
        return bool(self.number) and not self.taken and self.outcome is None


class StoredTurn(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn in the history."""

    number: int
    at: float  # when the turn began: the time of its first mail or, for the first turn, of the start
    taken: list[int] = []
    first_no: int
    patched: list[str] = []


class StoredStep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step in the history: replayed code must issue it again with the same ``no``."""

    no: int
    key: str
    kind: StepKind
    name: str
    input_hash: bytes = b""
    target: Target | None = None


class History(Struct, frozen=True, kw_only=True):
    """Everything stored about a run, in order. A run that has not begun has no turns."""

    run_id: UUID
    flow: str
    version: str
    loop: int  # the version of the loop's rules that the run began with
    input: Raw
    started_at: float
    turns: list[StoredTurn]
    steps: list[StoredStep]
    mail: list[Mail]  # that the turns consumed, by id


class FlowDescription(Struct, frozen=True, kw_only=True):
    """The public description of a flow: how to call it, and where its code is."""

    name: str
    version: str
    file: str
    description: str
    input: dict[str, Any]  # JSON Schema of the input, which is an object
    output: dict[str, Any]  # JSON Schema of the result
    examples: list[dict[str, Any]]  # of inputs
    priority: int | None  # of runs that are submitted without one
