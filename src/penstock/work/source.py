"""The source of a worker's jobs, and the description of what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from penstock.errors import CallerError
from penstock.jobs.work import ClaimedJob, ClaimRequest, Failure, HeartbeatResult, JobCompletion, JobHeartbeat

Report = JobCompletion | Failure


class JobSource(Protocol):
    """Provides jobs and receives reports about them. Raises ServiceError while the service is unavailable.

    Every report names the tenant of its jobs, as the claim did. ``heartbeat`` and ``complete`` return one result for
    each job, in order, errors as values.
    """

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]: ...
    async def heartbeat(
        self, tenant: str, beats: Sequence[JobHeartbeat]
    ) -> Sequence[HeartbeatResult | CallerError]: ...
    async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[object]: ...
    async def fail(self, tenant: str, job_id: UUID, failure: Failure) -> object: ...


class Log(Protocol):
    """The part of a structured logger that workers use."""

    def debug(self, event: str, **fields: Any) -> object: ...
    def info(self, event: str, **fields: Any) -> object: ...
    def warning(self, event: str, **fields: Any) -> object: ...
    def exception(self, event: str, **fields: Any) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """The jobs that an engine claims, and how it keeps their leases."""

    worker_id: str
    task_types: tuple[str, ...] = ()  # none: any
    model_profiles: tuple[str, ...] = ()  # none: any
    tenants: tuple[str, ...] = ()  # none: all that the worker serves
    limit: int = 1  # jobs that run at the same time
    lease: timedelta = timedelta(minutes=15)
    poll: timedelta = timedelta(seconds=2)  # claim at least this often; wake-ups bring new jobs sooner
    beat: timedelta = timedelta(seconds=5)  # longest time between heartbeats; a third of the lease if that is less
    grace: timedelta = timedelta(seconds=30)  # time for running jobs to finish when the worker stops
    max_result_bytes: int | None = None
