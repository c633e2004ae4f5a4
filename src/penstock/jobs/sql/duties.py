"""Maintenance across all tenants: the typed functions of ``duties.sql``. Rows carry their tenant.

See ``store`` for the conventions, except that no function here takes a tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.jobs.sql.rows import Connection, HeldLease, LimitedKey, TenantQueue, held, limited_keys
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "duties.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """The jobs that were due."""

    jobs: int
    ready: dict[TenantQueue, int]  # jobs of each queue that can run now
    blocked: Sequence[LimitedKey]  # keys of the others
    due_in: timedelta | None  # until the next one is due; None: none is scheduled


async def lock_expired(
    connection: Connection, *, recovered_at: datetime, cancel_grace: timedelta, limit: int
) -> list[HeldLease]:
    """Lock every tenant's leases to rescue, for the current transaction."""
    rows = await _sql.lock_expired.rows(
        connection, recovered_at=recovered_at, cancel_grace_seconds=cancel_grace.total_seconds(), limit=limit
    )
    return [held(row, TenantId(row["tenant_id"]), row["worker_id"]) for row in rows]


async def lock_leases_of(connection: Connection, worker_ids: Sequence[str], *, limit: int) -> list[HeldLease]:
    """Lock every tenant's leases of dead workers, for the current transaction."""
    rows = await _sql.lock_leases_of.rows(connection, worker_ids=list(worker_ids), limit=limit)
    return [held(row, TenantId(row["tenant_id"]), row["worker_id"]) for row in rows]


async def promote(connection: Connection, *, limit: int) -> Promoted:
    """Move due jobs of every tenant to ready; those whose concurrency key is limited become blocked."""
    *rows, last = await _sql.promote.rows(connection, limit=limit)
    return Promoted(
        jobs=sum(row["jobs"] for row in rows),
        ready={
            (TenantId(row["tenant_id"]), row["task_type"], row["model_profile"]): row["jobs"]
            for row in rows
            if row["limited_key"] is None
        },
        blocked=limited_keys(rows),
        due_in=last["due_in"],
    )


async def begin_rescue(connection: Connection) -> tuple[datetime, bool] | None:
    """Record that the rescue duty runs. Return since when it has run without a gap and whether any lease is held, or
    None when another process is recording it now."""
    row = await _sql.begin_rescue.row(connection)
    return None if row is None else (row["recovered_at"], row["leases"])


async def roll_up(connection: Connection) -> int:
    """Add counter deltas to the totals; return how many deltas there were."""
    counted: int = await _sql.roll_up.value(connection)
    return counted


async def raise_hints(connection: Connection) -> None:
    """Move the lanes' hints to their first visible rows."""
    await _sql.raise_hints.run(connection)


async def ready_position(connection: Connection) -> int:
    """Return the current value of the sequence of ready rows; it stays the same while nothing becomes ready."""
    position: int = await _sql.ready_position.value(connection)
    return position
