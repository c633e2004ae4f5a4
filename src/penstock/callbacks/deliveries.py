"""The tables of deliveries, for the housekeeper's duties: typed functions for ``delivery.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw

from penstock.callbacks.endpoint import Attempt
from penstock.callbacks.message import Delivery, Key
from penstock.events.event import StoredEvent
from penstock.events.store import stored
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection
EndpointKey = tuple[TenantId, UUID]

_PAGE_BYTES: Final = 2**20  # of events that are read at once
_KEPT_ATTEMPTS: Final = 20  # of a delivery; the last ones

_sql = queries.load(__file__, "delivery.sql")
_attempts = msgspec.json.Decoder(tuple[Attempt, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a tenant's events have become deliveries, and what follows."""

    position: int
    kinds: Sequence[str]  # what endpoints that submissions name want
    page_end: int | None  # None: there is nothing behind it
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A dispatcher's right to send to an endpoint."""

    tenant: TenantId
    endpoint_id: UUID
    epoch: int
    failures: int  # in a row
    quick: bool

    @property
    def key(self) -> EndpointKey:
        return (self.tenant, self.endpoint_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint as a dispatcher needs it."""

    url: str
    sealed: bytes | None
    previous_sealed: bytes | None
    secret_id: str | None
    stopped: bool  # it is disabled or removed
    suspended: bool
    arrivals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a delivery: ``delivered``, ``dead``, ``again`` or ``behind``."""

    lease: Lease
    key: Key
    result: str
    delay: timedelta
    tries: int
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The deliveries of one tenant."""

    tenant: str
    waiting: int
    delivered: int
    dead: int
    failed: int  # attempts
    oldest_seconds: float


async def backlogs(connection: Connection) -> list[Backlog]:
    """Return the deliveries of all tenants that have any, in numbers."""
    return [Backlog(**row) for row in await _sql.backlogs.rows(connection)]


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
) -> dict[UUID, tuple[UUID, frozenset[str]]]:
    """Return the endpoint that each job's submission named, and what it wants."""
    rows = await _sql.endpoints_of_jobs.rows(connection, tenant_id=tenant, job_ids=job_ids)
    wanted = {row["id"]: frozenset(row["events"]) for row in rows}
    return {row["job_id"]: (row["id"], wanted[row["id"]]) for row in rows}


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


async def lease(
    connection: Connection, *, quick: bool, full: Sequence[TenantId], limit: int, length: timedelta
) -> list[Lease]:
    """Lease endpoints that are due, of other tenants than those in ``full``."""
    rows = await _sql.lease.rows(
        connection, quick=quick, full=list(full), limit=limit, lease_seconds=length.total_seconds()
    )
    return [
        Lease(
            tenant=TenantId(row["tenant_id"]),
            endpoint_id=row["endpoint_id"],
            epoch=row["epoch"],
            failures=row["failures"],
            quick=quick,
        )
        for row in rows
        if not row["suspended"]
    ]


async def next_due(connection: Connection) -> timedelta | None:
    seconds: float | None = await _sql.next_due.value(connection)
    return None if seconds is None else timedelta(seconds=max(seconds, 0.0))


async def renew(connection: Connection, leases: Sequence[Lease], *, length: timedelta) -> set[EndpointKey]:
    """Extend leases; returns the endpoints whose leases still hold."""
    rows = await _sql.renew.rows(
        connection,
        tenant_ids=[one.tenant for one in leases],
        endpoint_ids=[one.endpoint_id for one in leases],
        epochs=[one.epoch for one in leases],
        lease_seconds=length.total_seconds(),
    )
    return {(TenantId(row["tenant_id"]), row["endpoint_id"]) for row in rows}


async def read_endpoint(connection: Connection, held: Lease) -> Target | None:
    """Return the endpoint of a lease; None if that does not hold any more."""
    row = await _sql.read_endpoint.row(
        connection, tenant_id=held.tenant, endpoint_id=held.endpoint_id, epoch=held.epoch
    )
    return None if row is None else Target(**row)


async def read_ready(
    connection: Connection, held: Lease, *, behind: Key, limit: int, max_bytes: int
) -> tuple[list[Delivery], set[Key]]:
    """Return deliveries that were not tried yet, and which of them are behind others of their subject."""
    rows = await _sql.read_ready.rows(
        connection,
        tenant_id=held.tenant,
        endpoint_id=held.endpoint_id,
        position=behind[0],
        place=behind[1],
        limit=limit,
        max_bytes=max_bytes,
    )
    return [_delivery(row) for row in rows], {(row["position"], row["place"]) for row in rows if row["blocked"]}


async def read_later(connection: Connection, held: Lease, *, limit: int, max_bytes: int) -> list[Delivery]:
    """Return deliveries that are due again."""
    rows = await _sql.read_later.rows(
        connection, tenant_id=held.tenant, endpoint_id=held.endpoint_id, limit=limit, max_bytes=max_bytes
    )
    return [_delivery(row, tries=row["tries"], attempts=_attempts.decode(row["attempts"])) for row in rows]


async def record(connection: Connection, outcomes: Sequence[Outcome]) -> set[tuple[UUID, Key]]:
    """Record what came of deliveries; returns those whose lease held and which were there."""
    rows = await _sql.record.rows(
        connection,
        tenant_ids=[one.lease.tenant for one in outcomes],
        endpoint_ids=[one.lease.endpoint_id for one in outcomes],
        epochs=[one.lease.epoch for one in outcomes],
        positions=[one.key[0] for one in outcomes],
        places=[one.key[1] for one in outcomes],
        results=[one.result for one in outcomes],
        delays=[one.delay.total_seconds() for one in outcomes],
        tries=[one.tries for one in outcomes],
        attempts=[Raw(msgspec.json.encode(one.attempts[-_KEPT_ATTEMPTS:])) for one in outcomes],
    )
    return {(row["endpoint_id"], (row["position"], row["place"])) for row in rows}


async def release(
    connection: Connection, held: Lease, *, arrivals: int, rest: timedelta | None, failures: int, quick: bool
) -> bool:
    """End a lease; returns False if it did not end because deliveries were added meanwhile, or does not hold."""
    ended = await _sql.release.value(
        connection,
        tenant_id=held.tenant,
        endpoint_id=held.endpoint_id,
        epoch=held.epoch,
        arrivals=arrivals,
        rest_seconds=None if rest is None else rest.total_seconds(),
        failures=failures,
        quick=quick,
    )
    return ended is not None


async def park(connection: Connection, held: Lease, *, arrivals: int) -> None:
    """End the lease of an endpoint that is disabled or removed."""
    await _sql.park.run(
        connection, tenant_id=held.tenant, endpoint_id=held.endpoint_id, epoch=held.epoch, arrivals=arrivals
    )


async def disable_gone(connection: Connection, held: Lease, *, reason: str) -> None:
    await _sql.disable_gone.run(connection, tenant_id=held.tenant, endpoint_id=held.endpoint_id, reason=reason)


async def give_up(connection: Connection, *, max_age: timedelta, limit: int) -> int:
    """End deliveries that have waited too long; returns how many."""
    number: int = await _sql.give_up.value(connection, max_age_seconds=max_age.total_seconds(), limit=limit)
    return number


async def drop_ended(connection: Connection, *, status: str, keep: timedelta, limit: int) -> int:
    """Delete deliveries that ended long ago; returns how many."""
    number: int = await _sql.drop_ended.value(connection, status=status, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def drop_jobs(connection: Connection, *, keep: timedelta, limit: int) -> int:
    """Delete the callbacks of jobs that retention has dropped; returns how many."""
    number: int = await _sql.drop_jobs.value(connection, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def drop_unused(connection: Connection, *, keep: timedelta, limit: int) -> int:
    """Delete endpoints that no submission has named for long; returns how many."""
    number: int = await _sql.drop_unused.value(connection, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def removed(connection: Connection, *, limit: int) -> list[EndpointKey]:
    """Return endpoints that were removed."""
    return [(TenantId(row["tenant_id"]), row["id"]) for row in await _sql.removed.rows(connection, limit=limit)]


async def drop_deliveries(connection: Connection, endpoint: EndpointKey, *, limit: int) -> int:
    """Delete deliveries of an endpoint that was removed; returns how many."""
    number: int = await _sql.drop_deliveries.value(
        connection, tenant_id=endpoint[0], endpoint_id=endpoint[1], limit=limit
    )
    return number


async def drop_endpoint(connection: Connection, endpoint: EndpointKey) -> None:
    """Delete an endpoint that was removed and has no deliveries."""
    await _sql.drop_endpoint.run(connection, tenant_id=endpoint[0], endpoint_id=endpoint[1])


def _delivery(row: asyncpg.Record, *, tries: int = 0, attempts: tuple[Attempt, ...] = ()) -> Delivery:
    return Delivery(
        position=row["position"],
        place=row["place"],
        mark=row["mark"],
        kind=row["kind"],
        source=row["source"],
        subject=row["subject"],
        at=row["at"],
        data=row["data"],
        tries=tries,
        attempts=attempts,
    )
