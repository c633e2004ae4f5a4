"""Jobs for tests of the job service: a started service, and a caller with defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record
from msgspec import UNSET, Raw, UnsetType

from penstock.errors import CallerError
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.events.stream import OpenStream
from penstock.failures import Category
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Job, JobPage, JobSubmission
from penstock.jobs.limits import JobLimits
from penstock.jobs.service import JobService
from penstock.jobs.sql import store
from penstock.jobs.sql.rows import Connection
from penstock.jobs.states import Status
from penstock.jobs.usage import Usage
from penstock.jobs.work import (
    ClaimedJob,
    ClaimRequest,
    Failure,
    HeartbeatResult,
    JobCompletion,
    JobHeartbeat,
    JobState,
    LogLine,
)
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.waiting import within

LOGGED_AT = datetime(2026, 1, 30, 9, tzinfo=UTC)


@asynccontextmanager
async def job_service(database: Database, limits: JobLimits | None = None) -> AsyncIterator[JobService]:
    """Start a service and wait until it listens for wake-ups."""
    service = JobService(database, limits)
    await service.start()
    try:
        await within(service.wakeups.listening.wait())
        yield service
    finally:
        await service.stop()


class JobCaller:
    """The calls of one tenant, with defaults for the fields that a test does not care about."""

    def __init__(self, service: JobService, tenant: TenantId) -> None:
        self.service = service
        self.tenant = tenant

    async def submit(self, **fields: Any) -> Job:
        return (await self.service.of(self.tenant).submit(submission(**fields))).job

    async def submit_many(self, count: int, **fields: Any) -> list[Job]:
        results = await self.service.of(self.tenant).submit_many([submission(**fields) for _ in range(count)])
        return [result.job for result in results]

    async def claim(self, limit: int = 1, *, worker_id: str = "worker", **fields: Any) -> list[ClaimedJob]:
        return await self.service.of(self.tenant).claim(ClaimRequest(worker_id=worker_id, limit=limit, **fields))

    async def claim_one(self, **fields: Any) -> ClaimedJob:
        (job,) = await self.claim(1, **fields)
        return job

    async def submit_and_claim(self, **fields: Any) -> ClaimedJob:
        """Submit a job, claim it, and return it."""
        await self.submit(**fields)
        return await self.claim_one()

    async def complete(self, job: ClaimedJob, result: bytes = b'"done"', *, usage: Sequence[Usage] = ()) -> JobState:
        completion = JobCompletion(id=job.id, epoch=job.epoch, result=Raw(result), usage=list(usage))
        return await self.service.of(self.tenant).complete(completion)

    async def fail(
        self,
        job: ClaimedJob,
        category: Category = Category.INTERNAL,
        *,
        message: str = "",
        retry_after: float | None = None,
        usage: Sequence[Usage] = (),
    ) -> JobState:
        failure = Failure(
            epoch=job.epoch,
            category=category,
            message=message,
            retry_after_seconds=retry_after,
            usage=list(usage),
        )
        return await self.service.of(self.tenant).fail(job.id, failure)

    async def beat(
        self, job: ClaimedJob, *, progress: bytes | None = None, lease_seconds: float | None = None
    ) -> HeartbeatResult | CallerError:
        sent: Raw | UnsetType = UNSET if progress is None else Raw(progress)
        beat = JobHeartbeat(id=job.id, epoch=job.epoch, progress=sent, lease_seconds=lease_seconds)
        (result,) = await self.service.of(self.tenant).heartbeat([beat])
        return result

    async def report(
        self,
        job: ClaimedJob,
        *chunks: bytes,
        first: int = 0,
        lines: Sequence[str] = (),
        lines_from: int = 0,
        progress: bytes | None = None,
    ) -> HeartbeatResult | CallerError:
        """Send a heartbeat with chunks of output or lines of log."""
        beat = JobHeartbeat(
            id=job.id,
            epoch=job.epoch,
            progress=UNSET if progress is None else Raw(progress),
            chunks=[Raw(chunk) for chunk in chunks] if chunks else UNSET,
            chunks_from=first,
            logs=[LogLine(time=LOGGED_AT, message=line) for line in lines] if lines else UNSET,
            logs_from=lines_from,
        )
        (result,) = await self.service.of(self.tenant).heartbeat([beat])
        return result

    async def get(self, job_id: UUID) -> Job:
        return await self.service.of(self.tenant).get(job_id)

    async def status(self, job_id: UUID) -> Status:
        return (await self.get(job_id)).status

    async def cancel(self, job_id: UUID) -> Job:
        return await self.service.of(self.tenant).cancel(job_id)

    async def retry(self, job_id: UUID) -> Job:
        return await self.service.of(self.tenant).retry(job_id)

    async def page(self, *, limit: int = 100, cursor: str | None = None, **where: Any) -> JobPage:
        return await self.service.of(self.tenant).list(JobFilter(**where), limit=limit, cursor=cursor)

    async def watch(self, job_id: UUID | None = None, *, after: str | None = None) -> OpenStream:
        """Open a stream of one job's events, or of all; ``after`` is an event id."""
        position = None if after is None else Position.parse(after)
        return await self.service.of(self.tenant).events(job_id=job_id, after=position)

    async def events(self, job_id: UUID | None = None, *, after: str | None = None) -> AsyncIterator[Event]:
        """Yield events as ``watch`` does, but open the stream when the first event is requested."""
        async for event in await self.watch(job_id, after=after):
            yield event

    async def history(self, job_id: UUID) -> list[str]:
        """Return the types of a finished job's events, in order."""
        return [event.type async for event in self.events(job_id)]


def submission(**fields: Any) -> JobSubmission:
    """Return a submission with the given fields and defaults for the rest."""
    if isinstance(fields.get("input"), bytes):
        fields["input"] = Raw(fields["input"])
    return JobSubmission(**({"owner_service": "tests", "task_type": "echo", "model_profile": "small"} | fields))


async def claim_rows(
    connection: Connection, tenant: TenantId, *, limit: int, worker_id: str = "w", from_start: bool = False
) -> list[Record]:
    """Execute the claim statement alone: without a process's cursors and without a second pass."""
    request = ClaimRequest(worker_id=worker_id, limit=limit)
    lease = timedelta(hours=1)
    return await store.claim(connection, tenant, request, lease=lease, turns={}, cursors=None if from_start else {})


def same_json(left: Raw | None, right: bytes) -> bool:
    """Return whether both are the same value."""
    return left is not None and bool(msgspec.json.decode(left) == msgspec.json.decode(right))


async def take(events: AsyncIterator[Event], count: int) -> Sequence[Event]:
    """Return the next events of a stream."""
    return [await within(anext(events)) for _ in range(count)]


async def finished_job(caller: JobCaller) -> UUID:
    """Submit a job, claim and complete it; return its id."""
    job = await caller.submit_and_claim()
    await caller.complete(job)
    return job.id
