"""Flows and runs as callers see them: the wire types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from penstock.callbacks.callback import Callback
from penstock.flows.kernel.records import History
from penstock.jobs.fields import (
    ConcurrencyKey,
    IdempotencyKey,
    JobPriority,
    JobTags,
    Name,
    OwnerRef,
    RunAt,
    TtlSeconds,
    UserId,
)
from penstock.jobs.job import JobError, JobSummary
from penstock.jobs.states import Status

FlowName = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)", description="The flow.")
]
Version = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)", description="Its version.")
]


class FlowRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new run of a flow. Without a version, it gets the most recently published one that a runner has."""

    input: Raw = field(default_factory=lambda: Raw(b"{}"))
    version: Version | None = None
    owner_service: Name = "flows"
    owner_ref: OwnerRef = ""
    user_id: UserId = ""
    priority: JobPriority | None = None
    run_at: RunAt | None = None
    ttl_seconds: TtlSeconds | None = None
    idempotency_key: IdempotencyKey | None = None
    concurrency_key: ConcurrencyKey | None = None
    tags: JobTags = []
    callback: Callback | None = None


class FlowVersion(Struct, frozen=True, kw_only=True):
    """One version of a flow."""

    name: str
    version: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[Any]
    alive: bool  # whether a runner has it now


class FlowView(FlowVersion, frozen=True, kw_only=True):
    """One version of a flow, with its runs."""

    unfinished: int  # runs of the tenant that have not ended


class Stranded(Struct, frozen=True, kw_only=True):
    """Runs that no runner can execute: those of a version that none has."""

    name: str
    version: str
    unfinished: int


class FlowList(Struct, frozen=True, kw_only=True):
    """The known flows, and runs of versions that no runner has."""

    flows: list[FlowView]
    stranded: list[Stranded]


class FlowCount(Struct, frozen=True, kw_only=True):
    """How many runs of a flow, as name@version, need attention."""

    flow: str
    runs: int
    reason: str = ""


class Trouble(Struct, frozen=True, kw_only=True):
    """Runs of all tenants that need attention."""

    held: list[FlowCount]
    stranded: list[FlowCount]


class RunPage(Struct, frozen=True, kw_only=True):
    """Runs, newest first. A page may hold fewer than the limit; only a null cursor means the end."""

    runs: list[JobSummary]
    next_cursor: str | None


class Difference(Struct, frozen=True, kw_only=True):
    """Why a run is held: what its history has, and what its code does."""

    reason: str
    message: str
    no: int | None = None
    stored: str = ""
    found: str = ""


class MapCounts(Struct, frozen=True, kw_only=True):
    """The items of a map."""

    items: int
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0  # or cancelled


class StepView(Struct, frozen=True, kw_only=True):
    """One step of a run. A map is one step, with counts."""

    no: int
    key: str
    kind: str
    name: str
    status: str  # that of a job; "waiting" also for timers and waits; "recorded" for steps that have no end
    job_id: UUID | None = None
    is_run: bool = False  # the job is a run of a flow
    issued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    due_at: datetime | None = None
    attempt: int | None = None
    hold: str | None = None
    error: JobError | None = None
    items: MapCounts | None = None
    progress: Raw | None = None  # of the job of a call


class RunTree(Struct, frozen=True, kw_only=True):
    """A run with its steps, in the order in which they were issued."""

    run: JobSummary
    input: Raw
    result: Raw | None
    difference: Difference | None  # of a run that is held
    turns: int | None  # number of activations so far; null when the run has ended
    steps: list[StepView]
    next_step: int | None  # the number of the first step of the next page; null at the end
    last_event_id: str  # events after this one may not show here yet: resume the stream of events after it


class SignalReply(Struct, frozen=True, kw_only=True):
    """The outcome of a signal."""

    id: int  # its position in the mail of the run
    repeated: bool  # whether it was sent before, with the same idempotency key


class StoredHistory(Struct, frozen=True, kw_only=True):
    """Everything stored about a run, for checking code against it; see ``penstock flow check``."""

    ended: bool  # the run ended with its last turn
    history: History


class Move(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to continue a run with the code of another version."""

    version: Version


class Rerun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rerun a run from a step: the steps before it are reused."""

    step: Annotated[int, Meta(ge=0, le=2**31 - 1, description="The number of the first step that is issued again.")]
    input: Raw | UnsetType = UNSET  # another input; if missing, that of the run


class RunState(Struct, frozen=True, kw_only=True):
    """The state of a run after a request that changes it."""

    id: UUID
    status: Status
