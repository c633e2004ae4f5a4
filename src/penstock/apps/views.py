"""Apps and their requests as callers see them: the wire types."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from msgspec import Raw, Struct, field

from penstock.apps.catalogue import AppProblem
from penstock.apps.manifest import Service
from penstock.callbacks.callback import Callback
from penstock.flows.views import MapCounts
from penstock.jobs.fields import IdempotencyKey, JobPriority, JobTags, UserId
from penstock.jobs.job import JobError
from penstock.jobs.states import Status


class CallRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request of an app."""

    input: Raw = field(default_factory=lambda: Raw(b"{}"))
    user_id: UserId = ""
    idempotency_key: IdempotencyKey | None = None
    priority: JobPriority | None = None
    tags: JobTags = []
    callback: Callback | None = None


class CallReply(Struct, frozen=True, kw_only=True):
    """A request that was accepted, and has not ended."""

    task_id: UUID
    app: str
    user_id: str
    status: Status
    created_at: datetime
    warnings: list[str] = []  # reasons why it may wait for a long time


class Stage(Struct, frozen=True, kw_only=True):
    """One step of a request's flow."""

    no: int
    name: str
    kind: str
    status: str  # a job's status; "waiting" also for a timer or a wait
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Raw | None = None
    items: MapCounts | None = None  # of a map
    error: JobError | None = None


class Media(Struct, frozen=True, kw_only=True):
    """A file in a result."""

    id: UUID
    url: str  # anyone may download it there until then; without a host it is relative to the gateway's address
    expires_at: datetime


class RequestUsage(Struct, frozen=True, kw_only=True):
    """What the jobs of requests have used, as in reports on usage."""

    attempts: int
    calls: int
    failures: int  # calls that failed
    prompt_tokens: int
    completion_tokens: int
    audio_seconds: float
    model_seconds: float
    cost: str  # a decimal number, in the price list's currency


class RequestResult(Struct, frozen=True, kw_only=True):
    """A request with its stages and, once it has completed, its result."""

    task_id: UUID
    app: str
    user_id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: Raw | None
    stages: list[Stage]
    next_stage: int | None  # the first number of the next page of stages; null at the end
    result: Raw | None  # files in it are URLs; null once the app's retention has removed it
    media: list[Media]  # its files
    error: JobError | None
    units: float | None  # of the app's price; null until the end is recorded, which takes a second or two
    usage: RequestUsage | None  # of its jobs, as far as it is recorded


class AppSummary(Struct, frozen=True, kw_only=True):
    """An app."""

    name: str
    version: str  # "": it has never been valid
    title: str
    description: str
    alive: bool  # whether a worker has it now
    problems: list[AppProblem]  # for operators


class AppList(Struct, frozen=True, kw_only=True):
    """The apps that workers have, by name."""

    apps: list[AppSummary]


class AppView(AppSummary, frozen=True, kw_only=True):
    """An app with its schemas."""

    flow: str  # name@version; "": no worker has it
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[Any]
    max_input_bytes: int | None
    ttl_seconds: float | None
    timeout_seconds: float | None
    result_retention_seconds: float | None
    price_unit: str
    services: list[Service]
    variables: dict[str, str]  # for operators; secrets are masked


class AppHealth(Struct, frozen=True, kw_only=True):
    """Whether requests of an app run: ``ok``, ``degraded`` (a file of it has a mistake), or ``unavailable``."""

    status: str
    app: str
    version: str
    flow: str
    problems: list[AppProblem]  # for operators


class RequestCounts(Struct, frozen=True, kw_only=True):
    """Sums of requests."""

    requests: int
    open: int  # that have not ended
    completed: int
    failed: int
    cancelled: int
    wait_seconds: float | None  # on average until the start, of those that have ended
    run_seconds: float | None  # on average from the start to the end
    p50_seconds: float | None  # within which half of the completed ones ended, to within 9 %
    p95_seconds: float | None
    units: float  # of the app's price
    usage: RequestUsage


class DayCounts(RequestCounts, frozen=True, kw_only=True):
    """The requests that were made on one day."""

    day: date


class PastRequest(Struct, frozen=True, kw_only=True):
    """The record of a request."""

    task_id: UUID
    user_id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    units: float
    usage: RequestUsage
    error: JobError | None
    result: Raw | None  # null when it has none, or is no longer kept; files in it are `blob:ID`
    result_left_out: bool  # it is larger than 16 KiB: read the request itself


class RequestPage(Struct, frozen=True, kw_only=True):
    """Requests, newest first."""

    requests: list[PastRequest]
    next_cursor: str | None  # null at the end


class AppStatistics(RequestCounts, frozen=True, kw_only=True):
    """Statistics of requests that were made from a day up to another."""

    app: str
    user_id: str | None  # null: all users
    since: date = field(name="from")
    to: date  # not included
    time_zone: str  # of the days: the tenant's
    price_unit: str
    days: list[DayCounts]  # those with requests
    results: RequestPage | None
