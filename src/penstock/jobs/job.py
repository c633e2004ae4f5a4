"""Jobs as callers submit and read them: the wire types.

All are msgspec Structs. ``input``, ``result`` and ``progress`` are raw JSON (``msgspec.Raw``): they
are not parsed on the way. Times are aware datetimes and travel as RFC 3339.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from penstock.callbacks.callback import Callback
from penstock.failures import Category
from penstock.jobs.fields import (
    Attempts,
    AttemptSeconds,
    ConcurrencyKey,
    ExpiresAt,
    IdempotencyKey,
    JobPriority,
    JobTags,
    ModelProfile,
    OwnerRef,
    OwnerService,
    RunAt,
    TaskType,
    TtlSeconds,
    UserId,
)
from penstock.jobs.states import Status
from penstock.jobs.usage import Usage


def _empty_object() -> Raw:
    return Raw(b"{}")


class JobSubmission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a new job, as its caller sends them."""

    owner_service: OwnerService
    task_type: TaskType
    model_profile: ModelProfile
    owner_ref: OwnerRef = ""
    user_id: UserId = ""
    input: Raw = field(default_factory=_empty_object)
    priority: JobPriority = 0
    max_attempts: Attempts | None = None
    run_at: RunAt | None = None
    expires_at: ExpiresAt | None = None
    ttl_seconds: TtlSeconds | None = None
    timeout_seconds: AttemptSeconds | None = None
    idempotency_key: IdempotencyKey | None = None
    concurrency_key: ConcurrencyKey | None = None
    tags: JobTags = []
    callback: Callback | None = None

    for_marketplace: ClassVar[bool] = False  # whether the marketplace gets the result as well


class RunSubmission(JobSubmission, frozen=True, kw_only=True):
    """A run of a flow as a job; callers cannot send it as such.

    ``chosen`` are the parts that the caller left to the server, which may choose others when the request is repeated.
    """

    chosen: frozenset[Literal["flow", "version", "priority", "ttl_seconds"]] = frozenset()


class MarketplaceSubmission(RunSubmission, frozen=True, kw_only=True):
    """A submission whose job's result the marketplace gets; callers cannot send it as such."""

    for_marketplace: ClassVar[bool] = True

    @classmethod
    def of(cls, submission: JobSubmission) -> Self:
        """Return the same submission with the result for the marketplace."""
        return cls(**{name: getattr(submission, name) for name in submission.__struct_fields__})


class JobFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job of a batch, or the batch's defaults: any subset of a submission's fields."""

    owner_service: OwnerService | UnsetType = UNSET
    task_type: TaskType | UnsetType = UNSET
    model_profile: ModelProfile | UnsetType = UNSET
    owner_ref: OwnerRef | UnsetType = UNSET
    user_id: UserId | UnsetType = UNSET
    input: Raw | UnsetType = UNSET
    priority: JobPriority | UnsetType = UNSET
    max_attempts: Attempts | None | UnsetType = UNSET
    run_at: RunAt | None | UnsetType = UNSET
    expires_at: ExpiresAt | None | UnsetType = UNSET
    ttl_seconds: TtlSeconds | None | UnsetType = UNSET
    timeout_seconds: AttemptSeconds | None | UnsetType = UNSET
    idempotency_key: IdempotencyKey | None | UnsetType = UNSET
    concurrency_key: ConcurrencyKey | None | UnsetType = UNSET
    tags: JobTags | UnsetType = UNSET
    callback: Callback | None | UnsetType = UNSET


class BatchSubmission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many jobs with shared defaults; either all are created or none."""

    jobs: Annotated[list[JobFields], Meta(min_length=1, max_length=10_000)]
    defaults: JobFields = JobFields()


class JobError(Struct, frozen=True, kw_only=True):
    """The reason why the last attempt ended without a result."""

    category: Category
    message: str


class Attempt(Struct, frozen=True, kw_only=True):
    """One attempt that failed or was lost."""

    attempt: int  # 1 is the first
    epoch: int
    worker_id: str
    started_at: datetime
    finished_at: datetime
    error: JobError
    usage: list[Usage] = []


class JobSummary(Struct, frozen=True, kw_only=True):
    """A job without its payloads, as lists show it."""

    id: UUID
    owner_service: str
    owner_ref: str
    user_id: str = ""
    key_id: str = ""  # of the key that submitted it; "": none
    task_type: str
    model_profile: str
    status: Status
    priority: int
    attempt: int  # the current or last attempt; 0 before the first
    max_attempts: int
    tags: list[str]
    created_at: datetime
    run_at: datetime | None = None  # when a pending job is (or was to be) due; None: at once
    expires_at: datetime | None = None  # known until then
    timeout_seconds: float | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    worker_id: str | None = None
    lease_expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Raw | None = None
    parent_id: UUID | None = None  # the run of a flow that has issued it
    hold: str | None = None  # why a waiting run is held: changed, compensation or broken
    error: JobError | None = None


class Job(JobSummary, frozen=True, kw_only=True):
    """A job with all its fields."""

    input: Raw
    result: Raw | None = None
    usage: list[Usage] = []  # the calls of the completed attempt
    attempts: list[Attempt] = []
    warnings: list[str] = []  # reasons why it may wait for a long time


class JobPage(Struct, frozen=True, kw_only=True):
    """Jobs, newest first. A page may hold fewer than the limit; only a null cursor means the end."""

    jobs: list[JobSummary]
    next_cursor: str | None


class Created(Struct, frozen=True, kw_only=True):
    """One job of a batch."""

    id: UUID
    status: Status
    created: bool  # false: an idempotency key found the job of an earlier request
    created_at: datetime


class CreatedBatch(Struct, frozen=True, kw_only=True):
    """The jobs of a batch, in the order of the request."""

    jobs: list[Created]
    warnings: list[str] = []  # reasons why some of them may wait for a long time


class Submitted(Struct, frozen=True, kw_only=True):
    """A submission's outcome: the job, and whether this call created it."""

    job: Job
    created: bool
