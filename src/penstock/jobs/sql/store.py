"""Create and change jobs: the typed functions of ``queries.sql``.

Every function takes the connection first and, except where claims serve all tenants, a tenant second. None opens a
transaction. The statements of other topics are in the modules beside this one, those that only read in ``reading``, and
the maintenance across all tenants in ``duties``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.failures import Category
from penstock.jobs import usage
from penstock.jobs.output import chunks_of, encoded, joined, lines_of, span
from penstock.jobs.sql.rows import (
    Connection,
    HeldLease,
    LimitedKey,
    Mailed,
    NewJob,
    Queue,
    TenantQueue,
    held,
    limited_keys,
)
from penstock.jobs.states import Again, Over, Status
from penstock.jobs.usage import Charging, Usage
from penstock.jobs.work import ClaimRequest, HeartbeatResult, JobCompletion, JobHeartbeat
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The result of a heartbeat that would leave a gap in chunks or log lines; nothing in it was written."""

    chunks: int  # how many of the attempt are stored
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision how to end a held lease."""

    job_id: UUID
    outcome: Again | Over
    category: Category
    message: str
    usage: Sequence[Usage] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    job_id: UUID
    status: Status
    run_at: datetime | None
    queue: TenantQueue
    limited: bool  # whether the tenant's running jobs are limited
    limited_key: LimitedKey | None  # of which it held a place; a pending job with one is blocked

    @property
    def ready(self) -> bool:
        """Whether the job can run again at once."""
        return self.status is Status.PENDING and self.run_at is None and self.limited_key is None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedJobs:
    """The time at which jobs were created, and the keys of which some may be blocked."""

    at: datetime
    blocked: Sequence[LimitedKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The completions that were stored."""

    leases: frozenset[tuple[UUID, int]]  # (job, epoch) pairs whose epoch held
    limited: bool  # whether the tenant's running jobs are limited
    freed: Sequence[LimitedKey]  # keys of which a place is free now
    mailed: Mailed


async def create(connection: Connection, tenant: TenantId, jobs: Sequence[NewJob]) -> CreatedJobs:
    """Insert jobs in the order given."""
    rows = await _sql.create.rows(
        connection,
        tenant_id=tenant,
        ids=[job.id for job in jobs],
        series_ids=[job.series_id for job in jobs],
        lane_ids=[job.lane_id for job in jobs],
        submitter_ids=[job.submitter_id for job in jobs],
        owner_refs=[job.submission.owner_ref for job in jobs],
        user_ids=[job.submission.user_id for job in jobs],
        inputs=[job.submission.input for job in jobs],
        input_sizes=[memoryview(job.submission.input).nbytes for job in jobs],
        max_attempts=[job.max_attempts for job in jobs],
        timeouts=[job.submission.timeout_seconds for job in jobs],
        run_ats=[job.submission.run_at for job in jobs],
        keys=[job.submission.idempotency_key for job in jobs],
        tags=["\x1f".join(job.submission.tags) or None for job in jobs],
        concurrency_keys=[job.submission.concurrency_key for job in jobs],
    )
    keys = [(job.lane_id, job.submission.concurrency_key or "") for job in jobs] if rows[0]["blocked"] else []
    return CreatedJobs(at=rows[0]["created_at"], blocked=[key for key in keys if key[1]])


async def open_gates(connection: Connection, tenant: TenantId, runs: Sequence[NewJob]) -> None:
    """Insert the gates of new runs of flows; it runs in the transaction that creates the runs."""
    await _sql.open_gates.run(
        connection,
        tenant_id=tenant,
        run_ids=[run.id for run in runs],
        series_ids=[run.series_id for run in runs],
        lane_ids=[run.lane_id for run in runs],
        submitter_ids=[run.submitter_id for run in runs],
        input_sizes=[memoryview(run.submission.input).nbytes for run in runs],
        max_attempts=[run.max_attempts for run in runs],
        concurrency_keys=[run.submission.concurrency_key for run in runs],
    )


async def claim(
    connection: Connection,
    tenant: TenantId | None,
    request: ClaimRequest,
    *,
    lease: timedelta,
    turns: Mapping[TenantId, int],
    cursors: Mapping[int, int] | None,
) -> list[asyncpg.Record]:
    """Lease ready jobs of a tenant, or of all tenants (None); the rows carry ``series_id`` in place of names.

    ``turns`` are tenants in order, and the most jobs to take from each; the others come first. ``cursors`` hold the
    number to begin at, by lane; None scans every lane from the start, whatever its hint.
    """
    rows: list[asyncpg.Record] = await _sql.claim.rows(
        connection,
        only_tenant=tenant,
        tenant_names=request.tenants or None,
        worker_id=request.worker_id,
        task_types=request.task_types,
        model_profiles=request.model_profiles,
        limit=request.limit,
        lease_seconds=request.lease_seconds or lease.total_seconds(),
        turn_tenants=list(turns),
        turn_quanta=list(turns.values()),
        cursor_lanes=list(cursors or ()),
        cursor_seqs=list((cursors or {}).values()),
        from_start=cursors is None,
    )
    rows.sort(key=itemgetter("epoch"))
    return rows


async def ready_queues(connection: Connection, task_types: Sequence[str], *, from_start: bool) -> list[TenantQueue]:
    """Return the queues of these task types, or of any if there are none, that have ready jobs.

    ``from_start`` also finds jobs that lie before the hints of their lanes.
    """
    rows = await _sql.ready_queues.rows(connection, task_types=task_types, from_start=from_start)
    return [(TenantId(row["tenant_id"]), row["task_type"], row["model_profile"]) for row in rows]


async def heartbeat(
    connection: Connection, tenant: TenantId, beats: Sequence[JobHeartbeat]
) -> dict[tuple[UUID, int], HeartbeatResult | Gap]:
    """Extend leases and store what heartbeats carry; return results by (job, epoch) for the epochs that hold."""
    chunks = [span(beat.chunks_from, len(chunks_of(beat))) for beat in beats]
    lines = [span(beat.logs_from, len(lines_of(beat))) for beat in beats]
    rows = await _sql.heartbeat.rows(
        connection,
        tenant_id=tenant,
        job_ids=[beat.id for beat in beats],
        epochs=[beat.epoch for beat in beats],
        lease_seconds=[beat.lease_seconds for beat in beats],
        progress=[beat.progress if isinstance(beat.progress, Raw) else None for beat in beats],
        chunks=[joined(chunks_of(beat)) for beat in beats],
        chunks_from=[first for first, _ in chunks],
        chunks_to=[end for _, end in chunks],
        lines=[encoded(lines_of(beat)) for beat in beats],
        lines_from=[first for first, _ in lines],
        lines_to=[end for _, end in lines],
    )
    return {
        (row["job_id"], row["epoch"]): HeartbeatResult(
            id=row["job_id"], lease_expires_at=row["lease_until"], cancel_requested=row["cancel_requested"]
        )
        if row["lease_until"] is not None
        else Gap(chunks=row["chunks_held"], lines=row["lines_held"])
        for row in rows
    }


async def complete(
    connection: Connection,
    tenant: TenantId,
    completions: Sequence[JobCompletion],
    charging: Charging = usage.unpriced,
    *,
    is_call: bool = True,
) -> Completed:
    """Store results and record the usage. An attempt that reports no calls counts as one, unless not ``is_call``."""
    rows = await _sql.complete.rows(
        connection,
        tenant_id=tenant,
        job_ids=[completion.id for completion in completions],
        epochs=[completion.epoch for completion in completions],
        results=[completion.result for completion in completions],
        sizes=[memoryview(completion.result).nbytes for completion in completions],
        usages=[usage.stored(completion.usage, charging) or _calls(is_call) for completion in completions],
    )
    return Completed(
        leases=frozenset((row["job_id"], row["epoch"]) for row in rows),
        limited=bool(rows) and rows[0]["limited"],
        freed=limited_keys(rows),
        mailed=Mailed.of(rows),
    )


def _calls(is_call: bool) -> bytes | None:
    return None if is_call else b"[]"


async def find_finished(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]
) -> dict[UUID, tuple[int | None, Status | None]]:
    """Return, for the jobs that exist, the epoch and status they ended with; (None, None) if they have not ended."""
    rows = await _sql.find_finished.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {row["job_id"]: (row["epoch"], Status(row["status"]) if row["status"] else None) for row in rows}


async def lock_leases(connection: Connection, tenant: TenantId, leases: Sequence[tuple[UUID, int]]) -> list[HeldLease]:
    """Lock the leases (job, epoch) whose epoch still holds, for the current transaction."""
    rows = await _sql.lock_leases.rows(
        connection,
        tenant_id=tenant,
        job_ids=[job_id for job_id, _ in leases],
        epochs=[epoch for _, epoch in leases],
    )
    return [held(row, tenant, None) for row in rows]


async def end_attempts(
    connection: Connection,
    tenant: TenantId,
    verdicts: Sequence[Verdict],
    charging: Charging = usage.unpriced,
    *,
    is_call: bool = True,
) -> tuple[dict[tuple[UUID, int], EndedAttempt], Mailed]:
    """End attempts whose leases the current transaction holds.

    Returns them by (job, epoch), and the runs that got mail.
    """
    again = [verdict.outcome if isinstance(verdict.outcome, Again) else None for verdict in verdicts]
    rows = await _sql.end_attempts.rows(
        connection,
        tenant_id=tenant,
        job_ids=[verdict.job_id for verdict in verdicts],
        statuses=[v.outcome.status if isinstance(v.outcome, Over) else Status.PENDING for v in verdicts],
        delays=[retry.delay.total_seconds() if retry else 0.0 for retry in again],
        failures=[retry.failures if retry else 0 for retry in again],
        losses=[retry.losses if retry else 0 for retry in again],
        categories=[verdict.category for verdict in verdicts],
        messages=[verdict.message for verdict in verdicts],
        usages=[usage.stored(verdict.usage, charging) or _calls(is_call) for verdict in verdicts],
    )
    ended = {
        (row["job_id"], row["epoch"]): EndedAttempt(
            job_id=row["job_id"],
            status=Status(row["status"]),
            run_at=row["run_at"],
            queue=(tenant, row["task_type"], row["model_profile"]),
            limited=row["limited"],
            limited_key=(row["lane_id"], row["limited_key"]) if row["limited_key"] is not None else None,
        )
        for row in rows
    }
    return ended, Mailed.of(rows)


async def cancel(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]
) -> tuple[dict[UUID, Status], Sequence[LimitedKey], Mailed]:
    """Cancel pending jobs and request that running ones stop.

    Returns each one's status: cancelled, running, or waiting for a run of a flow that has begun; the keys of which a
    place is free now; and the runs that got mail.
    """
    rows = await _sql.cancel.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {row["job_id"]: Status(row["status"]) for row in rows}, limited_keys(rows), Mailed.of(rows)


async def retry(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]
) -> tuple[dict[UUID, Queue], Sequence[LimitedKey]]:
    """Return failed and running jobs to pending.

    Returns the jobs that changed, with their queues, and the keys of which jobs may be blocked.
    """
    rows = await _sql.retry.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {row["job_id"]: (row["task_type"], row["model_profile"]) for row in rows}, limited_keys(rows)


def freed_by(ended: Iterable[EndedAttempt]) -> list[LimitedKey]:
    """Return the keys of which a place is free now."""
    return [one.limited_key for one in ended if one.limited_key is not None]
