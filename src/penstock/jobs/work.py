"""Claims and reports as workers send them: the wire types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from penstock.failures import Category
from penstock.jobs.fields import (
    PLAIN,
    EntryNumber,
    Lease,
    Message,
    Moment,
    Name,
    RetryAfterSeconds,
    TheEpoch,
    WaitSeconds,
    WorkerId,
)
from penstock.jobs.states import Status
from penstock.jobs.usage import Usages


def _null() -> Raw:
    return Raw(b"null")


class ClaimRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's request for jobs. Without task types or model profiles it accepts any."""

    worker_id: WorkerId
    task_types: Annotated[list[Name], Meta(max_length=100, description="Only of these task types; empty: of any.")] = []
    model_profiles: Annotated[
        list[Name], Meta(max_length=100, description="Only for these profiles; empty: for any.")
    ] = []
    tenants: Annotated[
        list[Name], Meta(max_length=1000, description="Only of these tenants; empty: of all that the sender serves.")
    ] = []
    limit: Annotated[int, Meta(ge=1, le=1000, description="The maximum number of jobs to return.")] = 1
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
    level: Annotated[str, Meta(min_length=1, max_length=20, pattern=PLAIN)] = "info"
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
