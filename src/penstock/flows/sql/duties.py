"""Maintenance of flows across all tenants: the typed functions of ``duties.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from penstock.jobs.sql.rows import Connection, Mailed
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "duties.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do for the flows of all tenants."""

    timer_in: timedelta | None  # until the next timer is due, not positive if one is; None: there is none
    waits: bool  # whether any run waits for events
    doomed: bool  # whether any job is to be cancelled


async def fire_timers(connection: Connection, *, limit: int) -> tuple[dict[TenantId, Mailed], bool]:
    """Deliver the timers that are due to their runs; return the runs, and whether more timers may be due."""
    rows = await _sql.fire_timers.rows(connection, limit=limit)
    return mailed_of(rows), bool(rows) and rows[0]["looked"] == limit


async def work(connection: Connection) -> Work:
    """Return what there is to do."""
    row = await _sql.work.row(connection)
    assert row is not None  # noqa: S101 - the statement has no FROM
    seconds = row["timer_in"]
    return Work(
        timer_in=None if seconds is None else timedelta(seconds=seconds), waits=row["waits"], doomed=row["doomed"]
    )


async def take_doomed(connection: Connection, *, limit: int) -> dict[TenantId, list[UUID]]:
    """Take jobs for the current transaction to cancel; return them by tenant."""
    found: dict[TenantId, list[UUID]] = {}
    for row in await _sql.take_doomed.rows(connection, limit=limit):
        found.setdefault(row["tenant_id"], []).append(row["job_id"])
    return found


async def doom(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> None:
    """Mark jobs for cancellation."""
    await _sql.doom.run(connection, tenant_id=tenant, job_ids=list(job_ids))


async def match_events(connection: Connection, *, limit: int) -> tuple[dict[TenantId, Mailed], bool]:
    """Deliver events to the runs that wait for them; return the runs, and whether more events are left to search."""
    rows = await _sql.match_events.rows(connection, limit=limit)
    return mailed_of([row for row in rows if row["mailed"] is not None]), any(row["more"] for row in rows)


def mailed_of(rows: Sequence[asyncpg.Record]) -> dict[TenantId, Mailed]:
    """Read rows with a tenant, a run and, if it was woken, its queue."""
    found: dict[TenantId, tuple[list[UUID], list[str | None]]] = {}
    for row in rows:
        if row["mailed"] is not None:
            runs, queues = found.setdefault(row["tenant_id"], ([], []))
            runs.append(row["mailed"])
            queues.append(row["woken"])
    return {tenant: Mailed.to(runs, queues) for tenant, (runs, queues) in found.items()}
