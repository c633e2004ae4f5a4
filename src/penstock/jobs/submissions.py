"""Submit one or many jobs. Each is created once, however often an idempotent request is sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.callbacks import store as callback_store
from penstock.callbacks.targets import CallbackTargets
from penstock.errors import IdempotencyConflict, InvalidInput
from penstock.jobs.callbacks import ENDED
from penstock.jobs.job import Job, JobSubmission, RunSubmission, Submitted
from penstock.jobs.names import Names
from penstock.jobs.sql import idempotency, reading
from penstock.jobs.sql.rows import Connection, NewJob
from penstock.jobs.states import Status
from penstock.jobs.writers import TenantWriters
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

Key = tuple[str, str]  # owner service, idempotency key


class Submissions:
    """Submits the jobs of one tenant."""

    def __init__(
        self,
        database: Database,
        tenant: TenantId,
        names: Names,
        writers: TenantWriters,
        *,
        max_attempts: int,
        callbacks: CallbackTargets | None = None,
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._names = names
        self._writers = writers
        self._callbacks = callbacks
        self._max_attempts = max_attempts  # of a job that does not set its own

    async def submit(self, submission: JobSubmission, *, key_id: str, counted: bool) -> Submitted:
        """Create a job, or return the one that an earlier request with the same idempotency key and content created.

        Raises IdempotencyConflict when the key was used for another request.
        """
        while True:
            names = self._names
            if not names.has_ids(submission, key_id):
                await names.resolve([submission], key_id)
            endpoint = None if submission.callback is None else (await self._endpoints([submission]))[0]
            marketplace = await self._marketplace() if submission.for_marketplace else None
            new = self._prepare(submission, key_id, endpoint, marketplace, counted=counted)
            created_at = await self._writers.creates.put(new)
            if created_at is not None:
                return Submitted(job=_as_created(new, created_at), created=True)
            async with self._database.acquire() as connection:
                existing = (await self._find_by_keys(connection, [submission]))[0]
            if existing is not None:
                return Submitted(job=existing, created=False)

    async def submitted_before(self, submission: JobSubmission) -> Job | None:
        """Return the job that an earlier request with the same idempotency key and content created, if there is one.

        Raises IdempotencyConflict when the key was used for another request.
        """
        async with self._database.acquire() as connection:
            return (await self._find_by_keys(connection, [submission]))[0]

    async def submit_many(self, submissions: Sequence[JobSubmission], *, key_id: str, counted: bool) -> list[Submitted]:
        """Create many jobs in one transaction, all or nothing; returns them in order. Raises as ``submit`` does."""
        _refuse_conflicts(submissions)
        await self._names.resolve(submissions, key_id)
        while True:
            endpoints = await self._endpoints(submissions)
            marketplace = await self._marketplace() if any(one.for_marketplace for one in submissions) else None
            new = [
                self._prepare(one, key_id, endpoint, marketplace if one.for_marketplace else None, counted=counted)
                for one, endpoint in zip(submissions, endpoints, strict=True)
            ]
            found: dict[Key, Job] = {}

            async def meet(connection: Connection, taken: Sequence[NewJob], met: dict[Key, Job] = found) -> None:
                """Check, before anything is written, that jobs with the same keys came from the same requests."""
                jobs = await self._find_by_keys(connection, [job.submission for job in taken])
                for job, existing in zip(taken, jobs, strict=True):
                    if existing is None:
                        raise _KeyFreed
                    met[_key(job.submission)] = existing

            try:
                created = await self._writers.create(new, meet=meet)
            except _KeyFreed:
                async with self._database.acquire() as connection:  # and commit: the failed attempt was rolled back
                    await self._find_by_keys(connection, [s for s in submissions if s.idempotency_key])
                continue
            except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
                raise InvalidInput.of("jobs", f"the database refuses a value: {error}") from error
            made = {_key(job.submission): _as_created(job, at) for job, at in zip(new, created, strict=True) if at}
            return [
                Submitted(job=_as_created(job, at), created=True)
                if at
                else Submitted(job=(found | made)[_key(job.submission)], created=False)
                for job, at in zip(new, created, strict=True)
            ]

    async def _endpoints(self, submissions: Sequence[JobSubmission]) -> list[UUID | None]:
        """Return the endpoints of the submissions' callbacks, in order; None for those that have none."""
        callbacks = [one.callback for one in submissions if one.callback is not None]
        if not callbacks:
            return [None] * len(submissions)
        if self._callbacks is None:
            raise InvalidInput.of("callback", "is not possible in this process")
        endpoints = iter(await self._callbacks.resolve(self._tenant, callbacks, ENDED))
        return [None if one.callback is None else next(endpoints) for one in submissions]

    async def _marketplace(self) -> UUID | None:
        """Return the endpoint of the marketplace, or None if this process knows none."""
        return None if self._callbacks is None else await self._callbacks.marketplace(self._tenant, ENDED)

    def _prepare(
        self,
        submission: JobSubmission,
        key_id: str,
        endpoint_id: UUID | None,
        marketplace_id: UUID | None,
        *,
        counted: bool,
    ) -> NewJob:
        series_id, lane_id, submitter_id = self._names.known_ids(submission, key_id)
        return NewJob(
            id=uuid7(),
            series_id=series_id,
            lane_id=lane_id,
            submitter_id=submitter_id,
            max_attempts=submission.max_attempts or self._max_attempts,
            submission=submission,
            counted=counted,
            endpoint_id=endpoint_id,
            marketplace_id=marketplace_id,
        )

    async def _find_by_keys(self, connection: Connection, submissions: Sequence[JobSubmission]) -> list[Job | None]:
        """Return the jobs that hold the submissions' keys; None where retention dropped the job, freeing the key."""
        if not submissions:
            return []
        keys = [_key(submission) for submission in submissions]
        ids = await idempotency.find(connection, self._tenant, keys)
        jobs = await reading.get(connection, self._tenant, sorted(set(ids.values())))
        for (owner, key), job_id in ids.items():
            if job_id not in jobs:
                await idempotency.release(connection, self._tenant, owner, key, job_id)
        found = [jobs.get(ids[key]) if key in ids else None for key in keys]
        endpoints = await self._endpoints(submissions)
        named = await callback_store.of_jobs(connection, self._tenant, list(jobs)) if jobs else {}
        for job, submission, endpoint in zip(found, submissions, endpoints, strict=True):
            if job is not None and (
                not _same_request(job, submission, self._max_attempts) or named.get(job.id) != endpoint
            ):
                raise _conflict(submission, f"job {job.id}")
        return found


class _KeyFreed(Exception):
    """Raised when a taken key belongs to a job that retention has dropped; the key is free now."""


def _key(submission: JobSubmission) -> Key:
    return (submission.owner_service, submission.idempotency_key or "")


def _conflict(submission: JobSubmission, what: str) -> IdempotencyConflict:
    return IdempotencyConflict(f"idempotency_key {submission.idempotency_key!r} was used for another request ({what})")


def _refuse_conflicts(submissions: Sequence[JobSubmission]) -> None:
    """Raise IdempotencyConflict when a batch uses one key for two different requests."""
    first: dict[Key, JobSubmission] = {}
    for submission in submissions:
        if submission.idempotency_key is not None:
            earlier = first.setdefault(_key(submission), submission)
            if earlier is not submission and earlier != submission:
                raise _conflict(submission, "in the same batch")


def _as_created(new: NewJob, created_at: datetime) -> Job:
    """Return a job as it is right after its creation, without reading it back."""
    submission = new.submission
    return Job(
        id=new.id,
        owner_service=submission.owner_service,
        owner_ref=submission.owner_ref,
        user_id=submission.user_id,
        task_type=submission.task_type,
        model_profile=submission.model_profile,
        status=Status.PENDING,
        priority=submission.priority,
        attempt=0,
        max_attempts=new.max_attempts,
        tags=submission.tags,
        created_at=created_at,
        run_at=submission.run_at,
        expires_at=_expiry(submission, created_at),
        timeout_seconds=submission.timeout_seconds,
        idempotency_key=submission.idempotency_key,
        concurrency_key=submission.concurrency_key,
        input=submission.input,
    )


def _expiry(submission: JobSubmission, created_at: datetime) -> datetime | None:
    """Return when a job of this submission expires; the statement that stores it computes from the same time."""
    if submission.ttl_seconds is not None:
        return created_at + timedelta(seconds=submission.ttl_seconds)
    return submission.expires_at


def _same_request(job: Job, submission: JobSubmission, max_attempts: int) -> bool:
    """Return whether the same request created the job. A due time that has moved since is not compared, nor is an
    expiry that has passed, nor what the server chooses."""
    chosen = submission.chosen if isinstance(submission, RunSubmission) else frozenset[str]()
    return (
        job.task_type == submission.task_type
        and ("flow" in chosen or _same_profile(job, submission, any_version="version" in chosen))
        and job.owner_ref == submission.owner_ref
        and job.user_id == submission.user_id
        and ("priority" in chosen or job.priority == submission.priority)
        and job.max_attempts == (submission.max_attempts or max_attempts)
        and job.timeout_seconds == submission.timeout_seconds
        and job.concurrency_key == submission.concurrency_key
        and job.tags == list(submission.tags)
        and (job.attempt > 0 or job.run_at == submission.run_at)
        and (
            "ttl_seconds" in chosen
            or job.attempt > 0
            or job.status.finished
            or job.expires_at == _expiry(submission, job.created_at)
        )
        and _same_json(job.input, submission.input)
    )


def _same_profile(job: Job, submission: JobSubmission, *, any_version: bool) -> bool:
    if any_version:
        return job.model_profile.rpartition("@")[0] == submission.model_profile.rpartition("@")[0]
    return job.model_profile == submission.model_profile


def _same_json(left: Raw, right: Raw) -> bool:
    if bytes(left) == bytes(right):
        return True
    try:
        return bool(msgspec.json.decode(left) == msgspec.json.decode(right))
    except (msgspec.MsgspecError, RecursionError):  # a number beyond floats, or nested too deeply: compared by spelling
        return False
