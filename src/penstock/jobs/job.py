"""The job as callers and workers see it: the wire types of the whole job API.

All are msgspec Structs. ``input``, ``result`` and ``progress`` are raw JSON (``msgspec.Raw``): they
are not parsed on the way. Times are aware datetimes and travel as RFC 3339.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from penstock.failures import Category
from penstock.jobs.states import Status
from penstock.jobs.usage import ProviderCounts, Usage, UsageCounts, Usages

# No control characters: they have no meaning in names, and PostgreSQL has no U+0000 at all.
_PLAIN = r"^[^\x00-\x1f\x7f]*$(?!\n)"  # in Python, $ alone also matches before a line break at the end
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=_PLAIN)]
Reference = Annotated[str, Meta(max_length=500, pattern=_PLAIN)]
Tag = Annotated[str, Meta(min_length=1, max_length=100, pattern=_PLAIN)]
Tags = Annotated[list[Tag], Meta(max_length=32)]
Priority = Annotated[int, Meta(ge=-100, le=100)]
MaxAttempts = Annotated[int, Meta(ge=1, le=100)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]
LeaseSeconds = Annotated[float, Meta(ge=1, le=24 * 3600)]
WaitSeconds = Annotated[float, Meta(ge=0, le=60)]
MAX_RETRY_AFTER_SECONDS = 7 * 24 * 3600  # seconds
RetryAfterSeconds = Annotated[float, Meta(ge=0, le=MAX_RETRY_AFTER_SECONDS)]
Epoch = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]
Message = Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00]*$")]
EntryNumber = Annotated[int, Meta(ge=0, le=2_000_000_000)]


# The same types with their meaning, for the description of the API.
OwnerService = Annotated[Name, Meta(description="The service on whose behalf the job runs.")]
OwnerRef = Annotated[Reference, Meta(description="The owner's own reference, such as an order's number.")]
UserId = Annotated[
    Annotated[str, Meta(max_length=200, pattern=_PLAIN)],
    Meta(description="The end user on whose behalf the job runs; '': the one that Penstock-User names, if any."),
]
TaskType = Annotated[Name, Meta(description="The kind of work; with model_profile it names the queue.")]
ModelProfile = Annotated[Name, Meta(description="The name of the model or profile that does the work.")]
JobPriority = Annotated[Priority, Meta(description="Jobs with a higher priority run first.")]
Attempts = Annotated[MaxAttempts, Meta(description="The most attempts; null: PENSTOCK_MAX_ATTEMPTS.")]
RunAt = Annotated[Moment, Meta(description="Not before this time; null: at once.")]
AttemptSeconds = Annotated[TimeoutSeconds, Meta(description="Time limit of one attempt, in seconds; null: no limit.")]
MAX_TTL_SECONDS = 366 * 24 * 3600  # seconds
ExpiresAt = Annotated[
    Moment, Meta(description="A job that no worker has taken by then fails as `expired`; null: it waits for ever.")
]
TtlSeconds = Annotated[
    float,
    Meta(
        gt=0, le=MAX_TTL_SECONDS, description="As expires_at, in seconds from the job's creation; set only one of them."
    ),
]
IdempotencyKey = Annotated[
    Name, Meta(description="A repeated request of the same owner with the same key returns the same job.")
]
JobTags = Annotated[Tags, Meta(description="Words to find the job by.")]
WorkerId = Annotated[Name, Meta(description="The worker's name, for display.")]
TheEpoch = Annotated[Epoch, Meta(description="The epoch of the claim; it identifies the worker's lease.")]
Lease = Annotated[LeaseSeconds, Meta(description="The length of the lease, in seconds.")]


def _empty_object() -> Raw:
    return Raw(b"{}")


def _null() -> Raw:
    return Raw(b"null")


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
    tags: JobTags = []


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
    tags: JobTags | UnsetType = UNSET


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
    worker_id: str | None = None
    lease_expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Raw | None = None
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


class ClaimRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's request for jobs. Without task types or model profiles it accepts any."""

    worker_id: WorkerId
    task_types: Annotated[list[Name], Meta(max_length=100, description="Only of these task types; empty: of any.")] = []
    model_profiles: Annotated[
        list[Name], Meta(max_length=100, description="Only for these profiles; empty: for any.")
    ] = []
    limit: Annotated[int, Meta(ge=1, le=1000, description="The most jobs to return.")] = 1
    lease_seconds: Lease | None = None  # None: the gateway's WORKER_LEASE_TIMEOUT
    wait_seconds: Annotated[WaitSeconds, Meta(description="How long to wait for the first job.")] = 0


class ClaimedJob(Struct, frozen=True, kw_only=True):
    """A job as its worker receives it; ``epoch`` must be named in every later call about it."""

    id: UUID
    epoch: int
    tenant: str  # the name of the job's tenant, which every report about the job must name unless it is the worker's
    owner_service: str
    owner_ref: str
    user_id: str = ""
    task_type: str
    model_profile: str
    priority: int
    attempt: int
    max_attempts: int
    timeout_seconds: float | None
    lease_expires_at: datetime
    created_at: datetime
    tags: list[str]
    input: Raw


class ClaimResponse(Struct, frozen=True, kw_only=True):
    jobs: list[ClaimedJob]


class LogLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a running job's log."""

    time: Moment  # the worker's clock
    level: Annotated[str, Meta(min_length=1, max_length=20, pattern=_PLAIN)] = "info"
    message: Annotated[str, Meta(max_length=10_000)]


class Heartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker reports that it still runs the job. ``progress`` is any JSON, ``{"fraction": 0.4}`` by convention.

    ``chunks`` are parts of the job's output, each any JSON. Chunks and log lines become the job's events. Both are
    numbered within the attempt, and the fields ``…_from`` give the number of the first one sent: those that are
    stored already are skipped, so a heartbeat may be repeated. See ``jobs.output`` for how much fits in one.
    """

    epoch: TheEpoch
    worker_id: WorkerId | None = None
    lease_seconds: Lease | None = None  # None: the length from the claim
    progress: Raw | UnsetType = UNSET
    chunks: list[Raw] | UnsetType = UNSET
    chunks_from: EntryNumber | UnsetType = UNSET
    logs: list[LogLine] | UnsetType = UNSET
    logs_from: EntryNumber | UnsetType = UNSET


class JobHeartbeat(Heartbeat, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of many heartbeats in one request."""

    id: UUID


class HeartbeatResult(Struct, frozen=True, kw_only=True):
    """The result of a heartbeat. A cancelled job should be stopped and failed as ``cancelled``."""

    id: UUID
    lease_expires_at: datetime
    cancel_requested: bool


class Completion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker reports a result."""

    epoch: TheEpoch
    worker_id: WorkerId | None = None
    result: Raw = field(default_factory=_null)
    usage: Usages = []


class JobCompletion(Completion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of many completions in one request."""

    id: UUID


class Failure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker reports that its attempt ended without a result."""

    epoch: TheEpoch
    category: Category = Category.INTERNAL
    message: Message = ""
    worker_id: WorkerId | None = None
    retry_after_seconds: (
        Annotated[RetryAfterSeconds, Meta(description="Least delay before the next attempt.")] | None
    ) = None
    usage: Usages = []


class BatchHeartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Heartbeats for many jobs of one worker."""

    jobs: Annotated[list[JobHeartbeat], Meta(min_length=1, max_length=10_000)]


class BatchCompletion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Results of many jobs of one worker; each is accepted or refused on its own."""

    jobs: Annotated[list[JobCompletion], Meta(min_length=1, max_length=10_000)]


class JobState(Struct, frozen=True, kw_only=True):
    """The state of a job after a worker's report."""

    id: UUID
    status: Status
    run_at: datetime | None = None  # when a job that returned to pending is due again


class BatchItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one item of a batch request: the error's code, or the outcome. Results keep the items' order."""

    id: UUID
    code: str | None = None  # "stale_epoch", "not_found", "invalid_input"
    detail: str | None = None  # the mistake, with the code "invalid_input"
    status: Status | None = None
    lease_expires_at: datetime | None = None
    cancel_requested: bool | None = None


class BatchResponse(Struct, frozen=True, kw_only=True):
    results: list[BatchItem]


class Submitted(Struct, frozen=True, kw_only=True):
    """A submission's outcome: the job, and whether this call created it."""

    job: Job
    created: bool


class _SingleFilters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The filters that take one value."""

    owner_service: Name | None = None
    owner_ref: Reference | None = None
    user_id: Name | None = None
    key_id: Name | None = None
    task_type: Name | None = None
    model_profile: Name | None = None
    priority: Priority | None = None
    worker_id: Name | None = None
    error_category: Category | None = None
    idempotency_key: Name | None = None
    max_attempts: MaxAttempts | None = None
    attempt: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    created_after: Moment | None = None  # inclusive
    created_before: Moment | None = None  # exclusive
    finished_after: Moment | None = None  # inclusive
    finished_before: Moment | None = None  # exclusive


class JobFilter(_SingleFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The jobs that a list, a retry or a cancel selects. Every field that is set must match."""

    status: Annotated[list[Status], Meta(min_length=1)] | None = None  # any of these
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=32)] | None = None  # all of these


class ListQuery(JobFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list: the filter, and the page."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(max_length=100)] | None = None


class BulkRequest(_SingleFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A retry or cancel by filter: the filter's fields, and whether only to count.

    ``status`` and ``tags`` take one value or a list, as they do in the query of a list.
    """

    status: Annotated[list[Status], Meta(min_length=1)] | Status | None = None
    # Not a Tag: msgspec 0.22 crashes when it frees a decoder for a union of a list and a string with a pattern.
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=32)] | str | None = None
    dry_run: bool = False


class BulkResponse(Struct, frozen=True, kw_only=True):
    """The number of jobs that were changed or, with ``dry_run``, would be."""

    count: int
    dry_run: bool


class Counts(Struct, frozen=True, kw_only=True):
    """Counters of jobs. ``pending`` and ``running`` are current values; all others count from the beginning."""

    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    errors: dict[str, int] = {}  # attempts that ended in an error, by category, including those that were retried
    usage: UsageCounts = UsageCounts()


class OwnerCounts(Counts, frozen=True, kw_only=True):
    """One owner's share of a queue's counters."""

    owner_service: str


class QueueCounts(Counts, frozen=True, kw_only=True):
    """Counters of one queue, split by owner."""

    task_type: str
    model_profile: str
    oldest_pending_seconds: float | None = None  # how long the oldest due job has waited; None: none waits
    owners: list[OwnerCounts] = []


class Stats(Struct, frozen=True, kw_only=True):
    """Counters of everything, of each queue and owner, and of each provider."""

    totals: Counts
    oldest_pending_seconds: float | None
    queues: list[QueueCounts]
    providers: list[ProviderCounts] = []
