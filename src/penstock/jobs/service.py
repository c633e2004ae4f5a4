"""The use cases of jobs: submit, claim, heartbeat, complete, fail, retry, cancel, list, wait, watch.

The rules are in ``states``, the SQL in ``store``, the group commits in ``writers``. Here they meet the callers.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from penstock import batching
from penstock.errors import CallerError, NotFound, WrongState
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.events.tail import EVENTS
from penstock.jobs import search, statistics
from penstock.jobs.announcements import CANCELLED, FINISHED, READY, announce
from penstock.jobs.claims import ClaimQueue, FullLooks, LaneCursors
from penstock.jobs.events import JobEvents
from penstock.jobs.job import (
    ClaimedJob,
    ClaimRequest,
    Failure,
    HeartbeatAnswer,
    Job,
    JobCompletion,
    JobFilter,
    JobHeartbeat,
    JobPage,
    JobState,
    JobSubmission,
    Stats,
    Submitted,
)
from penstock.jobs.names import Names
from penstock.jobs.sql import reading, store
from penstock.jobs.sql.reading import UsedByJob
from penstock.jobs.states import ErrorCategory, RetryPolicy, Status, may_cancel, may_retry
from penstock.jobs.submissions import Submissions
from penstock.jobs.writers import Observe, TenantWriters
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.processes.waiting import set_within
from penstock.settings import Settings
from penstock.tenants.principal import TenantId

_LOOK_AGAIN = 2.0  # seconds after which whoever waits looks by himself: a wake-up may be lost
_CHUNK = 1000  # jobs changed by one statement of a retry or cancel by filter
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What holds where a job or a worker states nothing."""

    max_attempts: int = 3
    lease: timedelta = timedelta(minutes=15)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    cancel_grace: timedelta = timedelta(seconds=30)

    @classmethod
    def from_settings(cls, settings: Settings) -> JobLimits:
        return cls(
            max_attempts=settings.penstock_max_attempts,
            lease=settings.worker_lease_timeout,
            retry=RetryPolicy(
                base=settings.penstock_retry_base,
                cap=settings.penstock_retry_cap,
                max_lost_leases=settings.penstock_max_lost_leases,
            ),
            cancel_grace=settings.penstock_cancel_grace,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """What this process keeps for one tenant."""

    names: Names
    writers: TenantWriters
    events: JobEvents
    submissions: Submissions


class JobService:
    """All that can be done with jobs, for every tenant, by one process.

    ``start`` does not need the database to be there; every call raises DatabaseUnavailable while it is away.
    ``observe_batch`` is told each group commit: its kind ("create", "complete", "fail", "heartbeat") and size.
    """

    def __init__(
        self, database: Database, limits: JobLimits | None = None, *, observe_batch: Observe | None = None
    ) -> None:
        self.limits = limits or JobLimits()
        self.wakeups = Wakeups(database)
        self.cancellations = asyncio.Event()  # set when some running job was asked to stop; its reader clears it
        self._database = database
        self._observe_batch = observe_batch
        self._claims = ClaimQueue()
        self._claiming: set[asyncio.Future[builtins.list[ClaimedJob]]] = set()
        self._cursors = LaneCursors()
        self._full_looks = FullLooks()
        self._finish_waiters: dict[str, set[asyncio.Event]] = {}  # by UUID.hex
        self._rooms: dict[TenantId, _Room] = {}
        self.wakeups.subscribe(READY, self._claims.wake)
        self.wakeups.subscribe(FINISHED, self._wake_finish_waiters)
        self.wakeups.subscribe(CANCELLED, lambda _: self.cancellations.set())
        self.wakeups.subscribe(EVENTS, self._wake_tails)

    async def start(self) -> None:
        """Begin to listen for wake-ups."""
        self.wakeups.start()

    async def stop(self) -> None:
        """Hand back what was claimed for callers that have gone, write what is queued, end streams, stop listening."""
        await asyncio.gather(*self._claiming, return_exceptions=True)
        for room in self._rooms.values():
            await room.writers.drain()
            await room.events.tail.stop()
        await self.wakeups.stop()

    # Submitting

    async def submit(self, tenant: TenantId, submission: JobSubmission) -> Submitted:
        """Create a job, or find the one that the same idempotency key and request made before.

        Raises IdempotencyConflict when the key was used for another request.
        """
        return await self._room(tenant).submissions.submit(submission)

    async def submit_many(self, tenant: TenantId, submissions: Sequence[JobSubmission]) -> builtins.list[Submitted]:
        """Create many jobs in one transaction, all or nothing; answers in order. Raises as ``submit`` does."""
        return await self._room(tenant).submissions.submit_many(submissions)

    # Reading

    async def get(self, tenant: TenantId, job_id: UUID) -> Job:
        """The whole job; raises NotFound."""
        async with self._database.acquire() as connection:
            job = (await reading.get(connection, tenant, [job_id])).get(job_id)
            if job is None:
                raise NotFound(f"there is no job {job_id}")
            if job.attempt > 1 or (job.attempt == 1 and job.status not in {Status.RUNNING, Status.COMPLETED}):
                attempts = await reading.attempts(connection, tenant, job_id)
                job = msgspec.structs.replace(job, attempts=attempts)
        return job

    async def wait(self, tenant: TenantId, job_id: UUID, timeout: timedelta) -> Job:
        """The job once it is finished, or as it is when ``timeout`` is over; raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        news = asyncio.Event()
        self._finish_waiters.setdefault(job_id.hex, set()).add(news)
        try:
            while True:
                news.clear()
                job = await _to_its_end(self.get(tenant, job_id))
                left = deadline - loop.time()
                if job.status.finished or left <= 0:
                    return job
                await set_within(news, min(left, _LOOK_AGAIN))
        finally:
            waiters = self._finish_waiters[job_id.hex]
            waiters.discard(news)
            if not waiters:
                del self._finish_waiters[job_id.hex]

    async def list(self, tenant: TenantId, where: JobFilter, *, limit: int = 100, cursor: str | None = None) -> JobPage:
        """A page of jobs, newest first; raises InvalidInput for a foreign cursor."""
        async with self._database.acquire() as connection:
            return await search.page(connection, tenant, where, limit=limit, cursor=cursor)

    async def usage_of(self, tenant: TenantId, job_ids: Sequence[UUID]) -> Sequence[UsedByJob]:
        """What jobs used of providers, attempt by attempt, and how their results say that those agree."""
        async with self._database.acquire() as connection:
            return await reading.usage_of(connection, tenant, job_ids)

    async def stats(self, tenant: TenantId) -> Stats:
        """Counters per queue and owner; counts no rows."""
        async with self._database.acquire() as connection:
            return await statistics.gather(connection, tenant)

    async def events(
        self, tenant: TenantId, *, job_id: UUID | None = None, after: Position | None = None
    ) -> AsyncIterator[Event]:
        """Open a stream of one job's events, or of all; see JobEvents. Raises DatabaseUnavailable."""
        events = self._room(tenant).events
        return await (events.all(after) if job_id is None else events.of_job(job_id, after))

    async def events_over(self, tenant: TenantId, job_id: UUID, after: Position) -> bool:
        """Whether the job has finished and nothing happened to it behind ``after``; raises NotFound."""
        return await self._room(tenant).events.is_over(job_id, after)

    # Working

    async def claim(self, tenant: TenantId, request: ClaimRequest) -> builtins.list[ClaimedJob]:
        """Lease ready jobs, waiting up to ``wait_seconds`` for the first.

        A caller that is cancelled loses nothing: what was just being leased for it is handed back.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_seconds
        with self._claims.waiting(request) as news:
            while True:
                news.clear()
                jobs = await self._claim_or_hand_back(tenant, request)
                left = deadline - loop.time()
                if jobs or left <= 0:
                    return jobs
                await set_within(news, min(left, _LOOK_AGAIN))

    async def _claim_or_hand_back(self, tenant: TenantId, request: ClaimRequest) -> builtins.list[ClaimedJob]:
        claiming = asyncio.ensure_future(self._claim_now(tenant, request))
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(lambda done: self._hand_back_claimed(tenant, done))
            raise

    def _hand_back_claimed(self, tenant: TenantId, claiming: asyncio.Future[builtins.list[ClaimedJob]]) -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self.hand_back(tenant, claiming.result())

    def hand_back(self, tenant: TenantId, jobs: Sequence[ClaimedJob]) -> None:
        """Make jobs ready again whose worker left before it received them; they lose no attempt by it."""
        for job in jobs:
            report = Failure(
                epoch=job.epoch, category=ErrorCategory.SHUTDOWN, message="the worker left before it received the job"
            )
            future = self._room(tenant).writers.failures.put((job.id, report))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _claim_now(self, tenant: TenantId, request: ClaimRequest) -> builtins.list[ClaimedJob]:
        lease = self.limits.lease
        kind = (tenant, tuple(request.task_types), tuple(request.model_profiles))
        async with self._database.acquire() as connection:
            rows = await store.claim(
                connection, tenant, request, lease=lease, cursors=self._cursors.current(), from_start=False
            )
            if not rows and self._full_looks.due(kind):
                began = time.monotonic()
                rows = await store.claim(connection, tenant, request, lease=lease, cursors={}, from_start=True)
                self._full_looks.took(kind, time.monotonic() - began)
            names = (
                await self._room(tenant).names.describe(connection, {row["series_id"] for row in rows}) if rows else {}
            )
        for row in rows:
            self._cursors.took(row["lane_id"], row["reached_seq"])
        if rows:
            announce(self.wakeups)
        return [_as_claimed(row, names[row["series_id"]]) for row in rows]

    async def heartbeat(
        self, tenant: TenantId, beats: Sequence[JobHeartbeat]
    ) -> builtins.list[HeartbeatAnswer | CallerError]:
        """Extend leases; answers in order, StaleEpoch or NotFound as values."""
        return batching.values(await self._room(tenant).writers.heartbeats.put_all(beats), CallerError)

    def complete(self, tenant: TenantId, completion: JobCompletion) -> Awaitable[JobState]:
        """Store a result. Repeating it with the same epoch succeeds; raises StaleEpoch, NotFound."""
        return self._room(tenant).writers.completions.put(completion)

    async def complete_many(
        self, tenant: TenantId, completions: Sequence[JobCompletion]
    ) -> builtins.list[JobState | CallerError]:
        """Store many results; answers in order, errors as values. Each stands or falls alone."""
        return batching.values(await self._room(tenant).writers.completions.put_all(completions), CallerError)

    async def fail(self, tenant: TenantId, job_id: UUID, failure: Failure) -> JobState:
        """End an attempt without a result: the job is pending again, or over. Raises StaleEpoch, NotFound."""
        return await self._room(tenant).writers.failures.put((job_id, failure))

    # Changing one's mind

    async def retry(self, tenant: TenantId, job_id: UUID) -> Job:
        """Send a failed job back to pending, or a running one, whose lease it takes away. NotFound, WrongState."""
        while not await self._retry_some(tenant, [job_id]):
            job = await self.get(tenant, job_id)
            if not may_retry(job.status):
                raise WrongState(f"job {job_id} is {job.status}; only failed and running jobs can be retried")
        return await self.get(tenant, job_id)

    async def cancel(self, tenant: TenantId, job_id: UUID) -> Job:
        """Cancel a pending job, or ask a running one to stop. NotFound; WrongState when it ended otherwise."""
        while not await self._cancel_some(tenant, [job_id]):
            job = await self.get(tenant, job_id)
            if job.status is Status.CANCELLED:
                return job
            if not may_cancel(job.status):
                raise WrongState(f"job {job_id} is {job.status}; only pending and running jobs can be cancelled")
        return await self.get(tenant, job_id)

    async def retry_where(self, tenant: TenantId, where: JobFilter, *, dry_run: bool) -> int:
        """Retry every failed or running job that the filter means, in chunks; answers how many."""
        change = None if dry_run else self._retry_some
        return await self._change_where(tenant, where, (Status.FAILED, Status.RUNNING), change)

    async def cancel_where(self, tenant: TenantId, where: JobFilter, *, dry_run: bool) -> int:
        """Cancel every pending or running job that the filter means, in chunks; answers how many."""
        change = None if dry_run else self._cancel_some
        return await self._change_where(tenant, where, (Status.PENDING, Status.RUNNING), change)

    async def _change_where(
        self,
        tenant: TenantId,
        where: JobFilter,
        allowed: tuple[Status, ...],
        change: Callable[[TenantId, Sequence[UUID]], Awaitable[int]] | None,
    ) -> int:
        """Change the jobs that match, status by status; without ``change`` only count them."""
        total = 0
        for status in allowed:
            if where.status and status not in where.status:
                continue
            narrowed = msgspec.structs.replace(where, status=[status])
            cursor: str | None = None
            while True:
                async with self._database.acquire() as connection:
                    page = await search.page(connection, tenant, narrowed, limit=_CHUNK, cursor=cursor)
                ids = [job.id for job in page.jobs]
                if ids:
                    total += await change(tenant, ids) if change else len(ids)
                cursor = page.next_cursor
                if cursor is None:
                    break
        return total

    async def _retry_some(self, tenant: TenantId, job_ids: Sequence[UUID]) -> int:
        async with self._database.acquire() as connection:
            retried = await store.retry(connection, tenant, job_ids)
        if retried:
            announce(self.wakeups, ready=Counter(retried.values()), cancelled=True)
        return len(retried)

    async def _cancel_some(self, tenant: TenantId, job_ids: Sequence[UUID]) -> int:
        async with self._database.acquire() as connection:
            found = await store.cancel(connection, tenant, job_ids)
        if found:
            announce(
                self.wakeups,
                finished=[job_id for job_id, status in found.items() if status is Status.CANCELLED],
                cancelled=Status.RUNNING in found.values(),
            )
        return len(found)

    # Inside

    def _room(self, tenant: TenantId) -> _Room:
        room = self._rooms.get(tenant)
        if room is None:
            names = Names(self._database, tenant)
            writers = TenantWriters(
                self._database, tenant, policy=self.limits.retry, wakeups=self.wakeups, observe=self._observe_batch
            )
            room = self._rooms[tenant] = _Room(
                names=names,
                writers=writers,
                events=JobEvents(self._database, tenant, names),
                submissions=Submissions(self._database, tenant, names, writers, max_attempts=self.limits.max_attempts),
            )
        return room

    def _wake_finish_waiters(self, keys: Keys) -> None:
        if self._finish_waiters:
            for job_id in self._finish_waiters if keys is None else keys:
                for news in self._finish_waiters.get(job_id, ()):
                    news.set()

    def _wake_tails(self, _keys: Keys) -> None:
        for room in self._rooms.values():
            room.events.tail.wake()


async def _to_its_end(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What ``work`` answers. It goes on to its end when its caller is cancelled: to break a statement off takes a
    connection of its own, and callers who wait leave all the time."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody wants to know any more
        raise


def _as_claimed(row: asyncpg.Record, names: tuple[str, str, str]) -> ClaimedJob:
    owner_service, task_type, model_profile = names
    return ClaimedJob(
        id=row["job_id"],
        epoch=row["epoch"],
        owner_service=owner_service,
        owner_ref=row["owner_ref"],
        task_type=task_type,
        model_profile=model_profile,
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        lease_expires_at=row["lease_until"],
        created_at=row["created_at"],
        tags=row["tags"] or [],
        input=row["input"],
    )
