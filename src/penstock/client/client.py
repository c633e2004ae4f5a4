"""The asynchronous client: all calls of the job API, event streams, and a complete worker."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from uuid import UUID

import msgspec
from msgspec import Struct

from penstock.client.access import AccessCalls
from penstock.client.blobs import BlobCalls
from penstock.client.models import ModelCalls
from penstock.client.queues import QueueCalls
from penstock.client.quotas import QuotaCalls
from penstock.client.stream import LAST_TYPES, Event, Stream
from penstock.client.transport import Query, Transport
from penstock.client.usage import UsageCalls
from penstock.client.views import Job, JobPage, as_id, as_raw
from penstock.client.work import HttpSource, PlainLog
from penstock.client.working import WorkCalls, WorkRequests
from penstock.failures import Category
from penstock.jobs.counts import Stats
from penstock.jobs.filters import BulkRequest, BulkResponse, JobFilter
from penstock.jobs.job import Created, CreatedBatch, JobSubmission
from penstock.jobs.states import Status
from penstock.processes.stopping import on_signals
from penstock.work.engine import Engine
from penstock.work.executor import Executor
from penstock.work.source import Duty

_JOBS = "/api/v1/jobs"
_LONGEST_WAIT = 60.0  # seconds that the gateway waits in one request


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
    tags: list[str]


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
    tags: str | list[str]  # all of these
    max_attempts: int
    attempt: int
    created_after: datetime  # inclusive
    created_before: datetime  # exclusive
    finished_after: datetime  # inclusive
    finished_before: datetime  # exclusive


class _Batch(Struct):
    jobs: Sequence[JobSubmission]


class Client(WorkCalls, QueueCalls, ModelCalls, BlobCalls, AccessCalls, QuotaCalls, UsageCalls):
    """A client of one gateway; use it as ``async with Client(url, token=…) as client``.

    Raises ValueError for a URL that is not an HTTP URL. Errors of the gateway are raised as the classes of
    ``penstock.errors``, and Unreachable if it cannot be reached. Calls that are safe to repeat are retried up to four
    times, each after a delay that the gateway may lengthen. Every submission has an idempotency key, generated here if
    the caller gives none, so that repeating it after a broken connection still creates only one job.
    ``headers`` are sent with every request.

    ``token`` is a key, or AI_SERVICE_TOKEN. ``tenant`` is the tenant for which an operator calls, ``user`` the end user
    on whose behalf all calls are made.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        owner_service: str = "python",
        timeout: timedelta = timedelta(seconds=30),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.owner_service = owner_service  # of jobs that do not set one
        self._transport = Transport(url, token=token, timeout=timeout, tenant=tenant, user=user, headers=headers)
        self._work_requests = WorkRequests(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def for_tenant(self, name: str) -> Client:
        """Return a client on the same connections whose calls are about a tenant's data; only an operator may do so.

        It is closed with this one.
        """
        other = copy(self)
        other._transport = self._transport.for_tenant(name)
        other._work_requests = WorkRequests(other._transport)
        return other

    # Submitting

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

    # Reading

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

    async def stats(self) -> Stats:
        """Return the counters of everything, of each queue and of each owner."""
        return await self._transport.call("GET", "/api/v1/stats", Stats)

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

    async def providers_status(self) -> dict[str, Any]:
        """Return whether the configured AI providers can be reached, in ``providers``."""
        return await self._transport.call("GET", "/api/v1/providers/status", dict[str, Any])

    async def infra_status(self) -> dict[str, Any]:
        """Return what the sidecars on GPU hosts report, in ``configured`` and ``sidecars``."""
        return await self._transport.call("GET", "/api/v1/infra/status", dict[str, Any])

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

    # Working

    async def work(
        self,
        handler: Executor,
        *,
        worker_id: str | None = None,
        task_types: Collection[str] = (),
        model_profiles: Collection[str] = (),
        limit: int = 1,
        lease: timedelta = timedelta(seconds=60),
        grace: timedelta = timedelta(seconds=30),
        stop: asyncio.Event | None = None,
    ) -> None:
        """Work on jobs: run ``await handler(job, context)`` for each, up to ``limit`` at a time, until stopped.

        The handler returns the job's result; see ``penstock.work.executors`` for errors, progress and batches. Leases
        are kept by heartbeats; a cancelled job's handler gets CancelledError. ``stop`` ends it; without one, SIGTERM
        and SIGINT do. Then running jobs have ``grace`` to finish, and the rest is handed back.
        """
        duty = Duty(
            worker_id=worker_id or f"{socket.gethostname()}-{os.getpid()}",
            task_types=tuple(task_types),
            model_profiles=tuple(model_profiles),
            limit=limit,
            lease=lease,
            poll=timedelta(seconds=20),
            beat=timedelta(seconds=2),
            grace=grace,
        )
        engine = Engine(HttpSource(self._work_requests), handler, duty, log=PlainLog("penstock.worker"))
        stopping = stop or asyncio.Event()
        working = asyncio.create_task(engine.run())
        waiting = asyncio.create_task(stopping.wait())
        try:
            if stop is None:
                with on_signals(stopping.set):
                    await self._work(engine, working, waiting)
            else:
                await self._work(engine, working, waiting)
        finally:
            waiting.cancel()
            working.cancel()
            await asyncio.wait([working, waiting])

    async def _work(self, engine: Engine, working: asyncio.Task[None], waiting: asyncio.Task[bool]) -> None:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await engine.stop()
        await working

    # Retry and cancel

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
