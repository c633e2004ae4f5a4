"""The event log as it is read: the typed face of ``event_store.sql``, by the conventions of ``store``."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from penstock.jobs.sql.store import Connection
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_PAGE = 500  # event rows read at once
_PAGE_BYTES = 8 * 2**20  # of their details; the row that exceeds it is still read

_sql = queries.load(__file__, "event_store.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Stored event rows, in order; ``more``: there are others behind them."""

    rows: list[asyncpg.Record]
    more: bool


async def event_horizon(connection: Connection) -> tuple[int, int]:
    """The transaction number below which every event is settled, and what it would be if nobody were writing.

    Run it as a statement of its own before reading; see the SQL.
    """
    (row,) = await _sql.event_horizon.rows(connection)
    return row["horizon"], row["ahead"]


async def read_events(connection: Connection, tenant: TenantId, *, behind: tuple[int, int], horizon: int) -> EventPage:
    """A page of event rows behind (txn, id), in order, below the horizon."""
    txn, row_id = behind
    rows = await _sql.read_events.rows(
        connection, tenant_id=tenant, txn=txn, id=row_id, horizon=horizon, limit=_PAGE, most_bytes=_PAGE_BYTES
    )
    return _page(rows)


async def read_job_events(
    connection: Connection, tenant: TenantId, job_id: UUID, *, behind: tuple[int, int], horizon: int
) -> EventPage:
    """A page of event rows that speak of a job, behind (txn, id), in order, below the horizon."""
    txn, row_id = behind
    rows = await _sql.read_job_events.rows(
        connection,
        tenant_id=tenant,
        job_id=job_id,
        txn=txn,
        id=row_id,
        horizon=horizon,
        limit=_PAGE,
        most_bytes=_PAGE_BYTES,
    )
    return _page(rows)


def _page(rows: list[asyncpg.Record]) -> EventPage:
    available = rows[0]["available"] if rows else 0
    return EventPage(rows=rows, more=available == _PAGE or available > len(rows))
