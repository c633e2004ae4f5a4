"""Tasks of a service as its callers see them: the wire types."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Raw, Struct, field

from penstock.apps.views import Media
from penstock.callbacks.callback import Callback
from penstock.jobs.fields import IdempotencyKey, JobPriority, JobTags, UserId
from penstock.jobs.job import JobError
from penstock.jobs.states import Status


class TaskRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task: an input of the service's model."""

    input: Raw = field(default_factory=lambda: Raw(b"{}"))
    user_id: UserId = ""
    idempotency_key: IdempotencyKey | None = None
    priority: JobPriority = 0
    tags: JobTags = []
    callback: Callback | None = None


class Task(Struct, frozen=True, kw_only=True):
    """A task and, once it has completed, its result."""

    task_id: UUID
    service: str
    user_id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: Raw | None
    result: Raw | None  # files in it are URLs
    media: list[Media]  # its files
    error: JobError | None
    warnings: list[str] = []  # reasons why it may wait for a long time


class ServiceHealth(Struct, frozen=True, kw_only=True):
    """A service whose database responds."""

    status: str
    app: str
    version: str
    service: str
    model: str
