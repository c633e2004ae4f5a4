"""The group commits of one tenant: one statement writes what many callers send at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from random import random
from typing import TypeVar
from uuid import UUID

import asyncpg
from msgspec import UNSET
from msgspec.structs import replace

from penstock.batching import Batching
from penstock.callbacks import store as callback_store
from penstock.callbacks.announcing import SUBMITTED
from penstock.errors import CallerError, InvalidInput, NotFound, StaleEpoch
from penstock.jobs import output
from penstock.jobs.admissions import Admissions
from penstock.jobs.announcements import FLOW, announce, announce_ended, announce_mail
from penstock.jobs.callbacks import ENDED, events_of
from penstock.jobs.places import Places
from penstock.jobs.sql import idempotency, queues, store
from penstock.jobs.sql.rows import NO_MAIL, Connection, HeldLease, NewJob
from penstock.jobs.sql.store import Gap, Verdict
from penstock.jobs.states import RetryPolicy, Status, after_failure
from penstock.jobs.usage import Charging, unpriced
from penstock.jobs.work import Failure, HeartbeatResult, JobCompletion, JobHeartbeat, JobState
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.quotas import store as quota_store
from penstock.tenants.principal import TenantId

# The server refused the batch because of what is in it.
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# Nothing was written, and the same batch may succeed now.
_UNLUCKY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Observe = Callable[[str, int], None]
Meet = Callable[[Connection, Sequence[NewJob]], Awaitable[None]]


def judge(lease: HeldLease, failure: Failure, policy: RetryPolicy) -> Verdict:
    """Decide, by the rules of ``states``, how a lease ends whose attempt ended with this failure."""
    retry_after = None if failure.retry_after_seconds is None else timedelta(seconds=failure.retry_after_seconds)
    outcome = after_failure(failure.category, lease.tally, policy, jitter=random(), retry_after=retry_after)
    return Verdict(
        job_id=lease.job_id,
        outcome=outcome,
        category=failure.category,
        message=failure.message,
        usage=failure.usage,
    )


class TenantWriters:
    """The batchers for creates, completions, failures and heartbeats; ``drain`` writes what is queued."""

    def __init__(
        self,
        database: Database,
        tenant: TenantId,
        *,
        policy: RetryPolicy,
        wakeups: Wakeups,
        places: Places,
        observe: Observe | None = None,
        charging: Charging = unpriced,
        admissions: Admissions,
    ) -> None:
        self._database = database
        self._charging = charging
        self._tenant = tenant
        self._policy = policy
        self._wakeups = wakeups
        self._admissions = admissions
        self._places = places
        self.creates: Batching[NewJob, datetime | None] = _batching(
            "create", self.create, observe, concurrency=2, content=lambda _: "input"
        )
        self.completions: Batching[JobCompletion, JobState] = _batching(
            "complete", self._complete, observe, concurrency=2, content=lambda _: "result"
        )
        self.failures: Batching[tuple[UUID, Failure], JobState] = _batching(
            "fail", self._fail, observe, concurrency=1, content=lambda _: "message"
        )
        self.heartbeats: Batching[JobHeartbeat, HeartbeatResult] = _batching(
            "heartbeat", self._heartbeat, observe, concurrency=1, content=_content_of_beat, weigh=output.size
        )

    async def drain(self) -> None:
        """Wait until everything that was queued is written."""
        for batcher in (self.creates, self.completions, self.failures, self.heartbeats):
            await batcher.drain()

    async def create(self, jobs: Sequence[NewJob], *, meet: Meet | None = None) -> list[datetime | None]:
        """Write new jobs in one transaction. Returns the time, or None for a job whose idempotency key was taken.

        Before anything is written, ``meet`` is called with the jobs whose keys other jobs hold; it may raise to stop.
        """
        keyed = [job for job in jobs if job.submission.idempotency_key is not None]
        first_callbacks = False
        async with self._database.acquire() as connection:
            runs = [job for job in jobs if job.submission.task_type == FLOW]
            if not keyed and not runs and not any(job.expires or job.counted or job.has_callback for job in jobs):
                fresh: Sequence[NewJob] = jobs
                created: store.CreatedJobs | None = await store.create(connection, self._tenant, jobs)
            else:
                async with connection.transaction():
                    reserved = await idempotency.reserve(connection, self._tenant, keyed) if keyed else set()
                    if meet is not None:
                        own = {_key(job) for job in keyed if job.id in reserved}
                        await meet(connection, [j for j in keyed if j.id not in reserved and _key(j) not in own])
                    fresh = [job for job in jobs if job.submission.idempotency_key is None or job.id in reserved]
                    created = await store.create(connection, self._tenant, fresh) if fresh else None
                    if runs:
                        begun = [job for job in fresh if job.submission.task_type == FLOW]
                        await store.open_gates(connection, self._tenant, begun)
                    if any(job.expires for job in fresh):
                        await queues.set_expiry(connection, self._tenant, fresh)
                    if counted := [job.id for job in fresh if job.counted]:
                        await quota_store.count_jobs(connection, self._tenant, counted)
                    first_callbacks = await self._attach_callbacks(connection, fresh)
        if created is not None:
            self._admissions.request(created.blocked)
            announce(self._wakeups, ready=Counter((self._tenant, *job.queue) for job in fresh))
        if first_callbacks:
            self._wakeups.announce(SUBMITTED)
        written = {job.id for job in fresh}
        return [created.at if created is not None and job.id in written else None for job in jobs]

    async def _attach_callbacks(self, connection: Connection, jobs: Sequence[NewJob]) -> bool:
        """Give new jobs the endpoints of their callbacks; returns whether they are the tenant's first."""
        endpoints = {job.id: (job.endpoint_id, job.marketplace_id) for job in jobs if job.has_callback}
        if not endpoints:
            return False
        kinds = {kind for job in jobs if job.has_callback for kind in events_of(job.submission.callback)}
        if any(job.marketplace_id for job in jobs):
            kinds |= set(ENDED)
        return await callback_store.attach(connection, self._tenant, endpoints, kinds=sorted(kinds))

    async def _heartbeat(self, beats: Sequence[JobHeartbeat]) -> list[HeartbeatResult | Exception]:
        turns, turn_of = _turns(beats)
        async with self._database.acquire() as connection:
            if len(turns) == 1:
                results = [await store.heartbeat(connection, self._tenant, turns[0])]
            else:  # all or nothing, so that a batch which is refused can be written again in halves
                async with connection.transaction():
                    results = [await store.heartbeat(connection, self._tenant, turn) for turn in turns]
            lost = [beat.id for beat in turns[0] if (beat.id, beat.epoch) not in results[0]]
            known = await store.find_finished(connection, self._tenant, lost) if lost else {}
        if any(beat.progress is not UNSET or output.carries_output(beat) for beat in beats):
            announce(self._wakeups)
        return [
            _heartbeat_result(beat, results[turn].get((beat.id, beat.epoch)), beat.id in known)
            for beat, turn in zip(beats, turn_of, strict=True)
        ]

    async def _complete(self, completions: Sequence[JobCompletion]) -> list[JobState | Exception]:
        first: dict[tuple[UUID, int], JobCompletion] = {}
        for completion in completions:
            first.setdefault((completion.id, completion.epoch), completion)
        async with self._database.acquire() as connection:
            done = await store.complete(connection, self._tenant, list(first.values()), self._charging)
            stored = done.leases
            lost = [job_id for job_id, epoch in first if (job_id, epoch) not in stored]
            known = await store.find_finished(connection, self._tenant, lost) if lost else {}
        self._admissions.request([*done.freed, *done.mailed.blocked])
        if stored:
            if done.limited:
                self._places.offer(self._tenant, len(stored))
            else:
                self._places.forget(self._tenant)
            announce(self._wakeups, finished=[job_id for job_id, _ in stored])
            announce_mail(self._wakeups, self._tenant, done.mailed)
        return [
            JobState(id=one.id, status=Status.COMPLETED)
            if (one.id, one.epoch) in stored or known.get(one.id) == (one.epoch, Status.COMPLETED)
            else _lost(one.id, one.epoch, one.id in known)
            for one in completions
        ]

    async def _fail(self, failures: Sequence[tuple[UUID, Failure]]) -> list[JobState | Exception]:
        reports = {(job_id, failure.epoch): failure for job_id, failure in failures}
        async with self._database.acquire() as connection:
            async with connection.transaction():
                held = await store.lock_leases(connection, self._tenant, list(reports))
                verdicts = [judge(lease, reports[lease.job_id, lease.epoch], self._policy) for lease in held]
                ended, mailed = (
                    await store.end_attempts(connection, self._tenant, verdicts, self._charging)
                    if verdicts
                    else ({}, NO_MAIL)
                )
            lost = [job_id for job_id, epoch in reports if (job_id, epoch) not in ended]
            known = await store.find_finished(connection, self._tenant, lost) if lost else {}
        self._admissions.request([*store.freed_by(ended.values()), *mailed.blocked])
        announce_ended(self._wakeups, list(ended.values()), self._places.offer)
        announce_mail(self._wakeups, self._tenant, mailed)
        return [
            JobState(id=job_id, status=end.status, run_at=end.run_at)
            if (end := ended.get((job_id, failure.epoch)))
            else _lost(job_id, failure.epoch, job_id in known)
            for job_id, failure in failures
        ]


def _batching(
    kind: str,
    flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | BaseException]]],
    observe: Observe | None,
    *,
    concurrency: int,
    content: Callable[[Item], str],
    weigh: Callable[[Item], int] | None = None,
) -> Batching[Item, Answer]:
    """Return a ``Batching`` whose errors name the field with the caller's ``content`` when the server refuses it."""
    return Batching(
        flush,
        refused=_REFUSED,
        unlucky=_UNLUCKY,
        concurrency=concurrency,
        observe=(lambda size: observe(kind, size)) if observe else None,
        refusal=lambda item, error: InvalidInput.of(content(item), f"the database refuses it: {error}"),
        weigh=weigh,
    )


def _key(job: NewJob) -> tuple[str, str | None]:
    return (job.submission.owner_service, job.submission.idempotency_key)


def _lost(job_id: UUID, epoch: int, exists: bool) -> StaleEpoch | NotFound:
    if exists:
        return StaleEpoch(f"epoch {epoch} no longer holds job {job_id}: its lease was lost, taken away or has ended")
    return NotFound(f"there is no job {job_id}")


def _heartbeat_result(
    beat: JobHeartbeat, result: HeartbeatResult | Gap | None, exists: bool
) -> HeartbeatResult | CallerError:
    if isinstance(result, Gap):
        name, stored = (
            ("chunks", result.chunks) if output.first_of(beat.chunks_from) > result.chunks else ("logs", result.lines)
        )
        return InvalidInput.of(f"{name}_from", f"must be at most {stored}, the number already stored for this attempt")
    return result or _lost(beat.id, beat.epoch, exists)


def _turns(beats: Sequence[JobHeartbeat]) -> tuple[list[list[JobHeartbeat]], list[int]]:
    """Group heartbeats into statements to run one after the other; return these, and each heartbeat's statement number.

    A lease occurs once in a statement: two heartbeats of it become one, unless both carry chunks or log lines.
    """
    turns: list[dict[tuple[UUID, int], JobHeartbeat]] = [{}]
    newest: dict[tuple[UUID, int], int] = {}
    turn_of: list[int] = []
    for beat in beats:
        lease = (beat.id, beat.epoch)
        number = newest.get(lease, 0)
        earlier = turns[number].get(lease)
        if earlier is not None and output.carries_output(earlier) and output.carries_output(beat):
            number, earlier = number + 1, None
            if number == len(turns):
                turns.append({})
        turns[number][lease] = beat if earlier is None else _later_beat(earlier, beat)
        newest[lease] = number
        turn_of.append(number)
    return [list(turn.values()) for turn in turns], turn_of


def _later_beat(earlier: JobHeartbeat, beat: JobHeartbeat) -> JobHeartbeat:
    """Merge two heartbeats of one lease; fields that the later one leaves out come from the earlier one."""
    telling = beat if output.carries_output(beat) else earlier
    return replace(
        beat,
        progress=earlier.progress if beat.progress is UNSET else beat.progress,
        lease_seconds=beat.lease_seconds or earlier.lease_seconds,
        chunks=telling.chunks,
        chunks_from=telling.chunks_from,
        logs=telling.logs,
        logs_from=telling.logs_from,
    )


def _content_of_beat(beat: JobHeartbeat) -> str:
    """Return the field with the bad content. The service itself encodes log lines, so it is one of the others."""
    return "chunks" if beat.chunks and beat.progress is UNSET else "progress"
