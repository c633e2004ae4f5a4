"""Pauses, and limits of running jobs: the typed functions of ``controls.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from penstock.jobs.sql.rows import Connection, Queue
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

ALL_TENANTS = TenantId(0)
ALL_QUEUES: Queue = ("", "")

_sql = queries.load(__file__, "controls.sql")


async def pause(connection: Connection, tenant: TenantId, queue: Queue) -> None:
    """Pause a queue, or ALL_QUEUES, of a tenant or of ALL_TENANTS."""
    await _sql.pause.run(connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1])


async def resume(connection: Connection, tenant: TenantId, queue: Queue) -> datetime | None:
    """End a pause of a queue, or of ALL_QUEUES; return when it began, or None if there was none."""
    found: datetime | None = await _sql.resume.value(
        connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1]
    )
    return found


async def pauses(connection: Connection, tenant: TenantId) -> dict[tuple[TenantId, Queue], datetime]:
    """Return the pauses that concern a tenant: its own, and those of ALL_TENANTS."""
    rows = await _sql.pauses.rows(connection, for_tenant=tenant)
    return {(TenantId(row["tenant_id"]), (row["task_type"], row["model_profile"])): row["paused_at"] for row in rows}


async def suspended_at(connection: Connection, tenant: TenantId) -> datetime | None:
    """Return since when a tenant has been suspended, or None if it is not suspended."""
    found: datetime | None = await _sql.suspended_at.value(connection, id=tenant)
    return found


async def queues(connection: Connection, tenant: TenantId) -> list[Queue]:
    """Return the queues in which a tenant ever had jobs."""
    rows = await _sql.queues.rows(connection, tenant_id=tenant)
    return [(row["task_type"], row["model_profile"]) for row in rows]


async def lock_tenant(connection: Connection, tenant: TenantId) -> float:
    """Lock a tenant's row for the current transaction; return its weight."""
    weight: float = await _sql.lock_tenant.value(connection, id=tenant)
    return weight


async def run_limits(connection: Connection, tenant: TenantId) -> dict[Queue, int]:
    """Return the maximum number of running jobs of each queue; ALL_QUEUES stands for all together."""
    rows = await _sql.run_limits.rows(connection, tenant_id=tenant)
    return {(row["task_type"], row["model_profile"]): row["max_running"] for row in rows}


async def set_limits(
    connection: Connection, tenant: TenantId, *, weight: float, max_running: Mapping[Queue, int]
) -> None:
    """Replace the weight and the limits of a tenant, whose row the current transaction has locked."""
    await _sql.set_weight.run(connection, id=tenant, weight=weight)
    await _sql.drop_run_limits.run(connection, tenant_id=tenant)
    if max_running:
        await _sql.add_run_limits.run(
            connection,
            tenant_id=tenant,
            task_types=[queue[0] for queue in max_running],
            model_profiles=[queue[1] for queue in max_running],
            maxima=list(max_running.values()),
        )


async def has_room(connection: Connection, tenant: TenantId) -> bool:
    """Return whether the limits of a tenant leave room for one more job."""
    return await _sql.has_room.value(connection, tenant_id=tenant) is not False
