"""Queues that workers serve, and jobs that expire: the typed functions of ``queues.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from penstock.jobs.sql.rows import NO_MAIL, Connection, LimitedKey, Mailed, NewJob, Queue, limited_keys
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "queues.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The jobs that no worker took in time."""

    jobs: list[UUID]
    more: bool  # whether there may be more
    freed: Sequence[LimitedKey]  # keys of which a place is free now
    mailed: dict[TenantId, Mailed]


async def note_served(
    connection: Connection, tenant: TenantId | None, served: Sequence[Queue], only: Sequence[str] = ()
) -> None:
    """Note that a worker of a tenant, or of all tenants (None), claims from these queues; an empty name means any.

    ``only`` are the names of the tenants whose jobs it claims, if not all.
    """
    task_types, model_profiles = [queue[0] for queue in served], [queue[1] for queue in served]
    if tenant is None and only:
        await _sql.note_served_for.run(
            connection, tenant_names=list(only), task_types=task_types, model_profiles=model_profiles
        )
    elif tenant is None:
        await _sql.note_served_for_all.run(connection, task_types=task_types, model_profiles=model_profiles)
    else:
        await _sql.note_served.run(connection, tenant_id=tenant, task_types=task_types, model_profiles=model_profiles)


async def served(connection: Connection, tenant: TenantId, *, limit: int) -> dict[Queue, float]:
    """Return the queues that workers claimed from most recently, with the seconds since then."""
    rows = await _sql.served.rows(connection, tenant_id=tenant, limit=limit)
    return {(row["task_type"], row["model_profile"]): row["seconds"] for row in rows}


async def forget_served(connection: Connection, keep: timedelta) -> None:
    """Forget queues, of every tenant, that no worker has claimed from for that long."""
    await _sql.forget_served.run(connection, keep_seconds=keep.total_seconds())


async def set_expiry(connection: Connection, tenant: TenantId, jobs: Sequence[NewJob]) -> None:
    """Store the expiry of those new jobs that have one."""
    limited = [job for job in jobs if job.expires]
    await _sql.set_expiry.run(
        connection,
        tenant_id=tenant,
        job_ids=[job.id for job in limited],
        expires_ats=[job.submission.expires_at for job in limited],
        ttls=[job.submission.ttl_seconds for job in limited],
    )


async def expire(connection: Connection, *, limit: int) -> Expired:
    """Fail jobs of every tenant that no worker took in time."""
    rows = await _sql.expire.rows(connection, limit=limit)
    return Expired(
        jobs=[row["job_id"] for row in rows],
        more=bool(rows) and rows[0]["looked"] == limit,
        freed=limited_keys(rows),
        mailed=_mailed(rows),
    )


def _mailed(rows: Sequence[asyncpg.Record]) -> dict[TenantId, Mailed]:
    if not rows or rows[0]["mailed"] is None:
        return {}
    found: dict[TenantId, Mailed] = {}
    for tenant, run, woken in zip(rows[0]["mailed_tenants"], rows[0]["mailed"], rows[0]["woken"], strict=True):
        found[tenant] = found.get(tenant, NO_MAIL) + Mailed.to([run], [woken])
    return found


async def next_expiry(connection: Connection) -> timedelta | None:
    """Return how soon the next job of any tenant expires; None when no job does."""
    seconds: float | None = await _sql.next_expiry.value(connection)
    return None if seconds is None else timedelta(seconds=max(seconds, 0.0))
