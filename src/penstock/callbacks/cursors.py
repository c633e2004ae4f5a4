"""The cursors up to which tenants' events have become deliveries: typed functions for ``cursor.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from penstock.events.event import StoredEvent
from penstock.events.store import stored
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection

_PAGE_BYTES: Final = 2**20  # of events in one read

_sql = queries.load(__file__, "cursor.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The position up to which a tenant's events have become deliveries, and the next page."""

    position: int
    kinds: Sequence[str]  # the types of events that endpoints named by submissions want
    page_end: int | None  # None: no events follow
    last: int | None
    floor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An endpoint that gets events of all subjects."""

    id: UUID
    events: frozenset[str]
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    rows: Sequence[StoredEvent]
    more: bool  # whether rows were left out


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    endpoint_id: UUID
    position: int
    place: int
    mark: int
    kind: str
    source: str
    subject: str
    at: datetime
    data: bytes


async def any_tenant(connection: Connection) -> bool:
    found: bool = await _sql.any_tenant.value(connection)
    return found


async def cursors_behind(connection: Connection, *, limit: int) -> list[TenantId]:
    """Return tenants that have events which are not deliveries yet."""
    return [TenantId(row["tenant_id"]) for row in await _sql.cursors_behind.rows(connection, limit=limit)]


async def lock_progress(connection: Connection, tenant: TenantId, *, limit: int) -> Cursor | None:
    """Lock a tenant's cursor; returns None if another process has it."""
    row = await _sql.lock_progress.row(connection, tenant_id=tenant, limit=limit)
    return None if row is None else Cursor(**row)


async def listeners(connection: Connection, tenant: TenantId) -> list[Listener]:
    return [
        Listener(id=row["id"], events=frozenset(row["events"]), since=row["since"])
        for row in await _sql.listeners.rows(connection, tenant_id=tenant)
    ]


async def any_job(connection: Connection, tenant: TenantId) -> bool:
    found: bool = await _sql.any_job.value(connection, tenant_id=tenant)
    return found


async def wanted_events(
    connection: Connection, tenant: TenantId, *, behind: int, upto: int, kinds: Sequence[str]
) -> EventPage:
    """Return events whose types match patterns of LIKE, about a megabyte of them at most."""
    rows = await _sql.wanted_events.rows(
        connection, tenant_id=tenant, behind=behind, upto=upto, kinds=kinds, max_bytes=_PAGE_BYTES
    )
    return EventPage(rows=[stored(row) for row in rows], more=bool(rows) and rows[0]["available"] > len(rows))


async def endpoints_of_jobs(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[UUID, frozenset[str]]]]:
    """Return the endpoints of jobs (named by submissions, or the marketplace's), with the types that they want."""
    rows = await _sql.endpoints_of_jobs.rows(connection, tenant_id=tenant, job_ids=job_ids)
    wanted = {row["id"]: frozenset(row["events"]) for row in rows}
    found: dict[UUID, list[tuple[UUID, frozenset[str]]]] = {}
    for row in rows:
        found.setdefault(row["job_id"], []).append((row["id"], wanted[row["id"]]))
    return found


async def add(connection: Connection, tenant: TenantId, new: Sequence[NewDelivery]) -> set[UUID]:
    """Add deliveries in the order of their events; returns their endpoints."""
    rows = await _sql.add.rows(
        connection,
        tenant_id=tenant,
        endpoint_ids=[one.endpoint_id for one in new],
        positions=[one.position for one in new],
        places=[one.place for one in new],
        marks=[one.mark for one in new],
        kinds=[one.kind for one in new],
        sources=[one.source for one in new],
        subjects=[one.subject for one in new],
        ats=[one.at for one in new],
        data=[one.data for one in new],
    )
    return {row["endpoint_id"] for row in rows}


async def advance(connection: Connection, tenant: TenantId, position: int) -> None:
    await _sql.advance.run(connection, tenant_id=tenant, position=position)
