"""Read jobs, lists and counts: the typed functions of ``reading.sql``, with the conventions of ``store``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.failures import Category
from penstock.jobs import usage
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Attempt, Job, JobError, JobSummary
from penstock.jobs.sql.rows import Connection, Queue
from penstock.jobs.states import Status
from penstock.jobs.usage import Usage
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "reading.sql")


@dataclass(frozen=True, slots=True)
class UsedByJob:
    """One attempt's calls to providers; ``agreement`` is the JSON list in the job's result, if there is one."""

    job_id: UUID
    usage: list[Usage]
    agreement: Raw | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The part of a job that messages carry. ``result`` is None if it is too large."""

    owner_ref: str
    user_id: str
    tags: list[str]
    finished_at: datetime | None
    result_bytes: int | None
    result: Raw | None


def _error(row: asyncpg.Record) -> JobError | None:
    if row["error_category"] is None:
        return None
    return JobError(category=Category(row["error_category"]), message=row["error_message"] or "")


def _summary_fields(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "owner_service": row["owner_service"],
        "owner_ref": row["owner_ref"],
        "user_id": row["user_id"],
        "key_id": row["key_id"],
        "task_type": row["task_type"],
        "model_profile": row["model_profile"],
        "status": Status(row["status"]),
        "priority": row["priority"],
        "attempt": row["attempt"],
        "max_attempts": row["max_attempts"],
        "tags": row["tags"] or [],
        "created_at": row["created_at"],
        "run_at": row["run_at"],
        "expires_at": row["expires_at"],
        "timeout_seconds": row["timeout_seconds"],
        "idempotency_key": row["idempotency_key"],
        "concurrency_key": row["concurrency_key"],
        "worker_id": row["worker_id"],
        "lease_expires_at": row["lease_expires_at"],
        "cancel_requested_at": row["cancel_requested_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "progress": row["progress"],
        "parent_id": row["parent_id"],
        "hold": row["hold"],
        "error": _error(row),
    }


async def get(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> dict[UUID, Job]:
    """Return whole jobs, without their attempts."""
    rows = await _sql.get.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {
        row["id"]: Job(**_summary_fields(row), input=row["input"], result=row["result"], usage=usage.read(row["usage"]))
        for row in rows
    }


async def described(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID], *, at_most: int
) -> dict[UUID, Described]:
    """Return what identifies jobs for their owners, with results of up to ``at_most`` bytes."""
    rows = await _sql.described.rows(connection, tenant_id=tenant, job_ids=list(job_ids), at_most=at_most)
    return {
        row["id"]: Described(
            owner_ref=row["owner_ref"],
            user_id=row["user_id"],
            tags=row["tags"] or [],
            finished_at=row["finished_at"],
            result_bytes=row["result_bytes"],
            result=row["result"],
        )
        for row in rows
    }


async def attempts(connection: Connection, tenant: TenantId, job_id: UUID) -> list[Attempt]:
    """Return a job's failed and lost attempts, oldest first."""
    rows = await _sql.attempts.rows(connection, tenant_id=tenant, job_id=job_id)
    return [
        Attempt(
            attempt=row["attempt"],
            epoch=row["epoch"],
            worker_id=row["worker_id"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            error=JobError(category=Category(row["category"]), message=row["message"]),
            usage=usage.read(row["usage"]),
        )
        for row in rows
    ]


async def usage_of(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> list[UsedByJob]:
    """Return what jobs used of providers: a row for each attempt that called any."""
    rows = await _sql.usage_of.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return [UsedByJob(row["id"], usage.read(row["usage"]), row["agreement"]) for row in rows]


async def match_series(connection: Connection, tenant: TenantId, where: JobFilter) -> list[int]:
    """Return the series that the filter's owner and queue select."""
    rows = await _sql.match_series.rows(
        connection,
        tenant_id=tenant,
        owner_service=where.owner_service,
        task_type=where.task_type,
        model_profile=where.model_profile,
    )
    return [row["id"] for row in rows]


async def scan(
    connection: Connection,
    tenant: TenantId,
    where: JobFilter,
    *,
    series: list[int] | None,
    low: UUID,
    high: UUID,
    budget: int,
) -> list[UUID]:
    """Return candidates for a filter, newest first, with low <= id < high, from the narrowest index that serves it."""
    bounds = {"tenant_id": tenant, "low": low, "high": high, "budget": budget}
    statuses = set(where.status or ())
    if where.owner_ref:
        rows = await _sql.scan_owner_ref.rows(connection, owner_ref=where.owner_ref, **bounds)
    elif where.user_id:
        rows = await _sql.scan_user.rows(connection, user_id=where.user_id, **bounds)
    elif where.concurrency_key:
        rows = await _sql.scan_concurrency_key.rows(connection, concurrency_key=where.concurrency_key, **bounds)
    elif statuses == {Status.RUNNING}:
        rows = await _sql.scan_running.rows(connection, **bounds)
    elif len(statuses) == 1 and statuses <= {Status.FAILED, Status.CANCELLED}:
        rows = await _sql.scan_unsuccessful.rows(connection, status=next(iter(statuses)), **bounds)
    elif statuses == {Status.WAITING}:
        rows = await _sql.scan_waiting.rows(connection, **bounds)
    elif series is not None:
        rows = await _sql.scan_series.rows(connection, series_ids=series, **bounds)
    elif statuses == {Status.PENDING}:
        rows = await _sql.scan_pending.rows(connection, **bounds)
    else:
        rows = await _sql.scan_jobs.rows(connection, **bounds)
    return [row["id"] for row in rows]


async def matching(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID], where: JobFilter
) -> list[JobSummary]:
    """Return those candidates that match the whole filter, newest first."""
    rows = await _sql.matching.rows(
        connection,
        tenant_id=tenant,
        job_ids=list(job_ids),
        owner_service=where.owner_service,
        owner_ref=where.owner_ref,
        user_id=where.user_id,
        key_id=where.key_id,
        task_type=where.task_type,
        model_profile=where.model_profile,
        statuses=where.status or None,
        priority=where.priority,
        worker_id=where.worker_id,
        error_category=where.error_category,
        idempotency_key=where.idempotency_key,
        concurrency_key=where.concurrency_key,
        tags=where.tags or None,
        max_attempts=where.max_attempts,
        attempt=where.attempt,
        created_after=where.created_after,
        created_before=where.created_before,
        finished_after=where.finished_after,
        finished_before=where.finished_before,
    )
    return [JobSummary(**_summary_fields(row)) for row in rows]


async def counts(connection: Connection, tenant: TenantId) -> list[asyncpg.Record]:
    """Return counters by owner, queue and error category, from the counter tables alone."""
    return await _sql.counts.rows(connection, tenant_id=tenant)


async def counts_of_all(connection: Connection) -> list[asyncpg.Record]:
    """Return counters by tenant, queue and error category, from the counter tables alone."""
    return await _sql.counts_of_all.rows(connection)


async def oldest_pending_of_all(connection: Connection) -> list[asyncpg.Record]:
    """Return how many seconds the oldest due job of each tenant's queues has waited."""
    return await _sql.oldest_pending_of_all.rows(connection)


async def usage_counts(connection: Connection, tenant: TenantId) -> list[asyncpg.Record]:
    """Return the calls to providers by owner, queue, provider and model."""
    return await _sql.usage_counts.rows(connection, tenant_id=tenant)


async def oldest_pending(connection: Connection, tenant: TenantId) -> dict[Queue, float]:
    """Return how many seconds the oldest due job of each queue has waited."""
    rows = await _sql.oldest_pending.rows(connection, tenant_id=tenant)
    return {(row["task_type"], row["model_profile"]): max(row["seconds"], 0.0) for row in rows}
