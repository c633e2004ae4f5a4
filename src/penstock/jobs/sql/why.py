"""The reasons why a job waits: the typed functions of ``why.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from penstock.jobs.sql.rows import Connection, Queue
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "why.sql")


async def place(connection: Connection, tenant: TenantId, job_id: UUID, *, at_most: int) -> int | None:
    """Return how many jobs of its queue come before a ready job, counted up to ``at_most``; None if it is not ready."""
    ahead: int | None = await _sql.place.value(connection, tenant_id=tenant, job_id=job_id, at_most=at_most)
    return ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A job that waits for a place of its concurrency key."""

    places: int | None  # None: the queue no longer has a rule
    holders: int  # jobs that hold a place
    jobs: Sequence[UUID]  # some of them
    ahead: int  # blocked jobs of the key that come before it


async def blocked(connection: Connection, tenant: TenantId, job_id: UUID, *, limit: int) -> Blocked | None:
    """Return what holds up a job, with at most ``limit`` jobs that hold places; None if it is not blocked."""
    row = await _sql.blocked.row(connection, tenant_id=tenant, job_id=job_id, limit=limit)
    if row is None:
        return None
    return Blocked(places=row["places"], holders=row["holders"], jobs=row["job_ids"], ahead=row["ahead"])


async def running(connection: Connection, tenant: TenantId, queue: Queue, *, limit: int) -> tuple[int, Sequence[UUID]]:
    """Return how many jobs of a queue, or of ALL_QUEUES, run, and the ids of the oldest."""
    row = await _sql.running.row(connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1], limit=limit)
    return (row["jobs"], row["job_ids"] or []) if row is not None else (0, [])


async def durations(connection: Connection, tenant: TenantId, queue: Queue, *, limit: int) -> list[float]:
    """Return how many seconds the newest completed jobs of a queue took."""
    rows = await _sql.durations.rows(
        connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1], limit=limit
    )
    return [row["seconds"] for row in rows]
