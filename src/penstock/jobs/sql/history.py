"""The stored events of one job: typed functions for ``history.sql``, with the conventions of ``store``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from penstock.events.event import StoredEvent
from penstock.events.store import stored
from penstock.jobs.sql.rows import Connection
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_PAGE: Final = 500  # rows in one page
_PAGE_BYTES: Final = 2**20  # of data in one page; the row that exceeds it is still read

_sql = queries.load(__file__, "history.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Rows that concern a job, in order. The next page begins after ``last_id``; ``more`` is whether there is one."""

    rows: list[StoredEvent]
    unnumbered: bool  # rows without a position were left out
    last_id: int
    more: bool


async def read_job_events(connection: Connection, tenant: TenantId, job_id: UUID, *, row_id: int) -> JobPage:
    """Return a page of event rows that concern a job, with event ids above ``row_id``."""
    found = await _sql.read_job_events.rows(
        connection, tenant_id=tenant, job_id=job_id, row_id=row_id, limit=_PAGE, max_bytes=_PAGE_BYTES
    )
    rows = [stored(row) for row in found if row["position"] is not None]
    available = found[0]["available"] if found else 0
    return JobPage(
        rows=rows,
        unnumbered=len(rows) < len(found),
        last_id=found[-1]["id"] if found else row_id,
        more=available == _PAGE or available > len(found),
    )


async def concerns_job(connection: Connection, tenant: TenantId, job_id: UUID, *, event_id: int, at: datetime) -> bool:
    """Return whether the event row concerns the job."""
    return bool(await _sql.concerns_job.value(connection, tenant_id=tenant, job_id=job_id, event_id=event_id, at=at))
