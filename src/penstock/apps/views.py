"""Apps and their requests as callers see them: the wire types."""

from __future__ import annotations

from datetime import datetime
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
    result: Raw | None  # files in it are URLs
    media: list[Media]  # its files
    error: JobError | None


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
