"""The calls about jobs: submit, read, wait, watch, retry, cancel and compare."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

import msgspec
from msgspec import Struct

from penstock.callbacks.callback import Callback
from penstock.client.stream import LAST_TYPES, Event, Stream
from penstock.client.transport import Query, Transport
from penstock.client.views import Job, JobPage, as_id, as_raw
from penstock.failures import Category
from penstock.jobs.filters import BulkRequest, BulkResponse, JobFilter
from penstock.jobs.job import Created, CreatedBatch, JobSubmission
from penstock.jobs.states import Status

_JOBS: Final = "/api/v1/jobs"
_LONGEST_WAIT: Final = 60.0  # seconds that the gateway waits in one request


class JobOptions(TypedDict, total=False):
    """The optional fields of a job; the description of the API explains each."""

    owner_service: str
    owner_ref: str
    user_id: str
    priority: int
    max_attempts: int | None
    run_at: datetime | None
    expires_at: datetime | None
    ttl_seconds: float | None
    timeout_seconds: float | None
    idempotency_key: str | None
    concurrency_key: str | None
    tags: list[str]
    callback: Callback | None


class JobFilters(TypedDict, total=False):
    """The filters of lists, of retries and cancels by filter, and of comparisons. Every given one must match."""

    owner_service: str
    owner_ref: str
    user_id: str
    task_type: str
    model_profile: str
    status: Status | str | list[Status] | list[str]  # any of these
    priority: int
    worker_id: str
    error_category: Category | str
    idempotency_key: str
    concurrency_key: str
    tags: str | list[str]  # all of these
    max_attempts: int
    attempt: int
    created_after: datetime  # inclusive
    created_before: datetime  # exclusive
    finished_after: datetime  # inclusive
    finished_before: datetime  # exclusive


class _Batch(Struct):
    jobs: Sequence[JobSubmission]


class JobCalls:
    """The part of ``Client`` about jobs, as their submitters see them."""

    owner_service: str
    _transport: Transport

    def job(
        self,
        task_type: str,
        model_profile: str,
        input: object = None,  # noqa: A002 - the contract's word
        **options: Unpack[JobOptions],
    ) -> JobSubmission:
        """Return a submission for ``submit_many``. ``input`` is any value that JSON can hold, or ``Raw`` JSON."""
        fields: dict[str, Any] = {"owner_service": self.owner_service, **options}
        if not fields.get("idempotency_key"):
            fields["idempotency_key"] = secrets.token_hex(16)
        return JobSubmission(
            task_type=task_type, model_profile=model_profile, input=as_raw({} if input is None else input), **fields
        )

    async def submit(
        self,
        task_type: str,
        model_profile: str,
        input: object = None,  # noqa: A002 - the contract's word
        **options: Unpack[JobOptions],
    ) -> Job:
        """Create one durable job, or return the one that an earlier call with the same idempotency key created."""
        submission = self.job(task_type, model_profile, input, **options)
        return await self._transport.call("POST", _JOBS, Job, body=submission)

    async def submit_many(self, jobs: Iterable[JobSubmission]) -> Sequence[Created]:
        """Create up to 10,000 jobs in one transaction, all or nothing; returns them in order."""
        submissions = [_keyed(job) for job in jobs]
        created = await self._transport.call("POST", f"{_JOBS}/batch", CreatedBatch, body=_Batch(jobs=submissions))
        return created.jobs

    async def get(self, job_id: UUID | str) -> Job:
        """Return a whole job; raises NotFound."""
        return await self._transport.call("GET", f"{_JOBS}/{as_id(job_id)}", Job)

    async def wait(self, job_id: UUID | str, timeout: timedelta | None = None) -> Job:
        """Return the job once it has finished, however it ended; raises TimeoutError after ``timeout``."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout.total_seconds()
        while True:
            left = _LONGEST_WAIT if deadline is None else min(_LONGEST_WAIT, max(0.0, deadline - loop.time()))
            job = await self._transport.call(
                "GET", f"{_JOBS}/{as_id(job_id)}", Job, query={"wait": f"{left:.3f}"}, wait=left
            )
            if job.status.finished:
                return job
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"job {job_id} is still {job.status} after {timeout}")

    async def list(
        self,
        where: JobFilter | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[JobFilters],
    ) -> JobPage:
        """Return a page of jobs, newest first; pass its ``next_cursor`` as ``cursor`` for the next page.

        Give filters by name or as a ``JobFilter``; every given one must match.
        """
        query: dict[str, str | Sequence[str]] = {"limit": str(limit), **_query(_filter(where, filters))}
        if cursor is not None:
            query["cursor"] = cursor
        return await self._transport.call("GET", _JOBS, JobPage, query=query)

    async def events(self, job_id: UUID | str | None = None, *, after: str | None = None) -> AsyncIterator[Event]:
        """Yield events as they happen: of one job from its creation to its end, or of all jobs from now on.

        ``after`` is the id of the last event seen; the stream resumes after it. Broken connections are made again and
        resume in the same way. Raises EventsLost when the service no longer has the events after it.
        """
        path = "/api/v1/events" if job_id is None else f"{_JOBS}/{as_id(job_id)}/events"
        stream = Stream(self._transport, path, after=after)
        last = ""
        while True:
            async for event in stream.connection():
                last = event.type
                yield event
            if job_id is not None and stream.ended:
                if last in LAST_TYPES:
                    return
                if not stream.count and (await self.get(job_id)).status.finished:
                    return
            await stream.pause()

    async def compare(
        self,
        job_ids: Collection[UUID | str] = (),
        *,
        where: JobFilter | None = None,
        limit: int = 500,
        **filters: Unpack[JobFilters],
    ) -> dict[str, Any]:
        """Return a comparison of the providers over these jobs, or over the newest ``limit`` finished ones that match:
        ``jobs``, ``providers`` and ``agreement``, as the API returns them."""
        if job_ids:
            query: Query = {"id": [str(as_id(job_id)) for job_id in job_ids]}
        else:
            query = {"limit": str(limit), **_query(_filter(where, filters))}
        return await self._transport.call("GET", "/api/v1/comparisons", dict[str, Any], query=query)

    async def why(self, job_id: UUID | str) -> dict[str, Any]:
        """Return why a job does not run: its position in its queue, an estimate, and what it waits for."""
        return await self._transport.call("GET", f"{_JOBS}/{as_id(job_id)}/why", dict[str, Any])

    async def retry(self, job_id: UUID | str) -> Job:
        """Return a failed or running job to pending; a running one loses its lease."""
        return await self._transport.call("POST", f"{_JOBS}/{as_id(job_id)}/retry", Job, repeatable=False)

    async def cancel(self, job_id: UUID | str) -> Job:
        """Cancel a pending job, or request that a running one stop."""
        return await self._transport.call("POST", f"{_JOBS}/{as_id(job_id)}/cancel", Job)

    async def retry_where(
        self, where: JobFilter | None = None, *, dry_run: bool = False, **filters: Unpack[JobFilters]
    ) -> int:
        """Retry every failed or running job that the filters select; return how many. ``dry_run`` only counts."""
        return await self._bulk("retry", _filter(where, filters), dry_run=dry_run)

    async def cancel_where(
        self, where: JobFilter | None = None, *, dry_run: bool = False, **filters: Unpack[JobFilters]
    ) -> int:
        """Cancel every unfinished job that the filters select; return how many. ``dry_run`` only counts."""
        return await self._bulk("cancel", _filter(where, filters), dry_run=dry_run)

    async def _bulk(self, verb: str, where: JobFilter, *, dry_run: bool) -> int:
        body = {**_stated(BulkRequest(**msgspec.structs.asdict(where))), "dry_run": dry_run}
        found = await self._transport.call("POST", f"{_JOBS}/{verb}", BulkResponse, body=body, repeatable=dry_run)
        return found.count


def _keyed(job: JobSubmission) -> JobSubmission:
    return job if job.idempotency_key else msgspec.structs.replace(job, idempotency_key=secrets.token_hex(16))


def _filter(where: JobFilter | None, filters: JobFilters) -> JobFilter:
    """Return the filter, given as a whole or by its fields; raises ValueError for an invalid value."""
    if where is not None and filters:
        raise ValueError("give filters by name or as a JobFilter, not both")
    stated: dict[str, Any] = dict(filters)
    for name in ("status", "tags"):
        if isinstance(stated.get(name), str):
            stated[name] = [stated[name]]
    return where if where is not None else msgspec.convert(stated, JobFilter)


def _stated(where: Struct) -> dict[str, Any]:
    """Return the fields that are set, as JSON values."""
    return {name: value for name, value in msgspec.to_builtins(where).items() if value is not None}


def _query(where: JobFilter) -> Query:
    return {
        name: [str(item) for item in value] if isinstance(value, list) else str(value)
        for name, value in _stated(where).items()
    }
