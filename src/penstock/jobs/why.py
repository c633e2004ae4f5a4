"""The reasons why a job does not run: its place, an estimate, and what it waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import mean
from typing import Final
from uuid import UUID

from msgspec import Struct

from penstock import durations
from penstock.errors import NotFound
from penstock.jobs.job import Job
from penstock.jobs.queues import Explain, Known, ServedQueues
from penstock.jobs.sql import controls, reading
from penstock.jobs.sql import why as statements
from penstock.jobs.sql.controls import ALL_QUEUES, ALL_TENANTS
from penstock.jobs.sql.rows import Connection, Queue
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

_MAX_AHEAD: Final = 10_000  # jobs that are counted
_MAX_JOBS: Final = 20  # that one reason names
_SAMPLE: Final = 50  # completed jobs that an estimate is based on


class Blocker(StrEnum):
    """One thing that a job waits for."""

    SCHEDULED = "scheduled"  # its run_at
    BACKING_OFF = "backing_off"  # the delay before its next attempt
    SUSPENDED = "suspended"  # a resume of its suspended tenant
    PAUSED = "paused"  # a resume of its queue or tenant
    CONCURRENCY_KEY = "concurrency_key"  # a place of its key, which other jobs hold
    LIMIT_REACHED = "limit_reached"  # the end of running jobs, which a limit counts
    NO_WORKER = "no_worker"  # a worker that serves its queue
    MODEL_NOT_LOADED = "model_not_loaded"  # its model
    PROVIDER_RESTING = "provider_resting"  # its provider, whose breaker is open
    QUOTA = "quota"  # a quota
    TURN = "turn"  # jobs before it, or a free worker
    STEPS = "steps"  # the ends of steps, a time, an event or a signal: it is a run of a flow
    HELD = "held"  # other code, or an operator
    RUNNING = "running"  # nothing: it runs
    FINISHED = "finished"  # nothing: it has ended


class Reason(Struct, frozen=True, kw_only=True):
    """One thing that a job waits for. ``jobs`` are some of those that a limit or a concurrency key counts."""

    code: Blocker
    detail: str
    until: datetime | None = None
    jobs: Sequence[UUID] = ()


class Estimate(Struct, frozen=True, kw_only=True):
    """The time until the job may begin to run, if nothing else holds it back, and the basis of that estimate."""

    seconds: float
    basis: str


class Why(Struct, frozen=True, kw_only=True):
    """Why a job does not run. ``reasons`` begin with the one that has to end first."""

    id: UUID
    status: Status
    reasons: list[Reason]
    position: int | None = None  # 1 is the next job of its queue; null unless it could run now
    estimate: Estimate | None = None


Obstacles = Callable[[Job], Awaitable[Sequence[Reason]]]


class Explainer:
    """Finds out why jobs of one tenant do not run."""

    def __init__(self, database: Database, tenant: TenantId, served: ServedQueues) -> None:
        self._database = database
        self._tenant = tenant
        self._served = served

    async def why(self, job_id: UUID, known: Known, explain: Explain, obstacles: Obstacles) -> Why:
        """Return why a job does not run; raises NotFound. For ``known`` and ``explain`` see ServedQueues.

        ``obstacles`` returns what a pending job waits for that other rooms know.
        """
        async with self._database.acquire() as connection:
            job = (await reading.get(connection, self._tenant, [job_id])).get(job_id)
            if job is None:
                raise NotFound(f"there is no job {job_id}")
            if job.status is not Status.PENDING:
                return Why(id=job_id, status=job.status, reasons=[_settled(job)])
            queue = (job.task_type, job.model_profile)
            ahead = await statements.place(connection, self._tenant, job_id, at_most=_MAX_AHEAD)
            held_up = None
            if ahead is None and job.concurrency_key is not None:
                held_up = await statements.blocked(connection, self._tenant, job_id, limit=_MAX_JOBS)
            reasons = await self._delays(connection, job) if ahead is None and held_up is None else []
            reasons += [*await self._suspension(connection), *await self._pauses(connection, queue)]
            if held_up is not None:
                reasons.append(_without_place(job, held_up))
            reasons += await self._limits(connection, queue)
            sample = await statements.durations(connection, self._tenant, queue, limit=_SAMPLE)
            running, _ = await statements.running(connection, self._tenant, queue, limit=0)
        missing = await self._served.warnings([queue], known, explain)
        reasons += [Reason(code=Blocker.NO_WORKER, detail=text) for text in missing]
        reasons += await obstacles(job)
        if ahead is None:
            return Why(id=job_id, status=job.status, reasons=reasons)
        if not reasons:
            reasons.append(Reason(code=Blocker.TURN, detail=_turn(ahead)))
        return Why(
            id=job_id,
            status=job.status,
            reasons=reasons,
            position=ahead + 1,
            estimate=estimated(ahead, running=running, sample=sample),
        )

    async def _delays(self, connection: Connection, job: Job) -> list[Reason]:
        if job.run_at is None:
            return []
        if job.attempt == 0:
            return [Reason(code=Blocker.SCHEDULED, detail=f"it is to run at {_text(job.run_at)}", until=job.run_at)]
        failed = await reading.attempts(connection, self._tenant, job.id)
        why = f": {failed[-1].error.category}, {failed[-1].error.message}" if failed else ""
        detail = f"the next attempt begins at {_text(job.run_at)}; attempt {job.attempt} failed{why}"
        return [Reason(code=Blocker.BACKING_OFF, detail=detail, until=job.run_at)]

    async def _suspension(self, connection: Connection) -> list[Reason]:
        since = await controls.suspended_at(connection, self._tenant)
        if since is None:
            return []
        return [Reason(code=Blocker.SUSPENDED, detail=f"its tenant is suspended since {_text(since)}")]

    async def _pauses(self, connection: Connection, queue: Queue) -> list[Reason]:
        found = await controls.pauses(connection, self._tenant)
        return [
            Reason(code=Blocker.PAUSED, detail=f"{_subject(tenant, paused)} paused since {_text(at)}")
            for (tenant, paused), at in found.items()
            if paused in {queue, ALL_QUEUES}
        ]

    async def _limits(self, connection: Connection, queue: Queue) -> list[Reason]:
        limits = await controls.run_limits(connection, self._tenant)
        reasons = []
        for limited in (queue, ALL_QUEUES):
            most = limits.get(limited)
            if most is None:
                continue
            count, jobs = await statements.running(connection, self._tenant, limited, limit=_MAX_JOBS)
            if count >= most:
                where = "the tenant" if limited == ALL_QUEUES else f"the queue {'/'.join(queue)}"
                detail = f"{count} jobs of {where} run, and the limit is {most}"
                reasons.append(Reason(code=Blocker.LIMIT_REACHED, detail=detail, jobs=jobs))
        return reasons


def estimated(ahead: int, *, running: int, sample: Sequence[float]) -> Estimate | None:
    """Return when a job may begin that has ``ahead`` jobs before it, while ``running`` jobs of its queue run at a time.

    None if no job of the queue has completed, or none runs.
    """
    if not sample or not running:
        return None
    seconds = mean(sample)
    return Estimate(
        seconds=round((ahead + 1) * seconds / running, 3),
        basis=f"the last {len(sample)} completed jobs of the queue took {seconds:.3g} s each, and {running} run now",
    )


def _settled(job: Job) -> Reason:
    if job.status is Status.RUNNING:
        since = _text(job.started_at) if job.started_at is not None else "just now"
        return Reason(code=Blocker.RUNNING, detail=f"it runs on {job.worker_id} since {since}")
    if job.status is Status.WAITING and job.hold is not None:
        return Reason(code=Blocker.HELD, detail=f"it is held ({job.hold}) until other code or an operator releases it")
    if job.status is Status.WAITING:
        return Reason(code=Blocker.STEPS, detail="the run waits for its steps, a time, an event or a signal")
    return Reason(code=Blocker.FINISHED, detail=f"it has {job.status}")


def _without_place(job: Job, held_up: statements.Blocked) -> Reason:
    """Return the reason of a job that waits for a place of its concurrency key."""
    key = f"the concurrency key {job.concurrency_key}"
    if held_up.places is None or held_up.holders < held_up.places:
        return Reason(
            code=Blocker.CONCURRENCY_KEY, detail=f"{key} has a free place, which the job may take at any moment"
        )
    ahead = f"; {held_up.ahead} more wait before it" if held_up.ahead else ""
    return Reason(
        code=Blocker.CONCURRENCY_KEY,
        detail=f"jobs that are ready or run hold all places of {key}, {held_up.places} in this queue{ahead}",
        jobs=held_up.jobs,
    )


def _turn(ahead: int) -> str:
    if not ahead:
        return "it is the next job of its queue, and waits for a free worker"
    count = f"{_MAX_AHEAD} or more" if ahead >= _MAX_AHEAD else str(ahead)
    return f"{count} jobs of its queue come before it" if ahead > 1 else "1 job of its queue comes before it"


def _subject(tenant: TenantId, paused: Queue) -> str:
    what = "all queues are" if paused == ALL_QUEUES else f"the queue {'/'.join(paused)} is"
    return f"for all tenants, {what}" if tenant == ALL_TENANTS else what


def _text(moment: datetime) -> str:
    """Return a time with how far away it is."""
    away = moment - datetime.now(UTC)
    relation = f"in {_rounded(away)}" if away > timedelta(0) else f"{_rounded(-away)} ago"
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} ({relation})"


def _rounded(span: timedelta) -> str:
    return durations.text(timedelta(seconds=max(1, round(span.total_seconds()))))
