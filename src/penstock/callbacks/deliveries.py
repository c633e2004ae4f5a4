"""The statements of dispatchers: typed functions for ``delivery.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw

from penstock.callbacks.endpoint import Attempt
from penstock.callbacks.message import Delivery, Key
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection
EndpointKey = tuple[TenantId, UUID]

_KEPT_ATTEMPTS: Final = 20  # the last ones of each delivery

_sql = queries.load(__file__, "delivery.sql")
_attempts = msgspec.json.Decoder(tuple[Attempt, ...])


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
    """The outcome of a delivery: ``delivered``, ``dead``, ``again`` or ``behind``."""

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
    """Return the numbers of deliveries of each tenant that has any."""
    return [Backlog(**row) for row in await _sql.backlogs.rows(connection)]


async def lease(
    connection: Connection, *, quick: bool, full: Sequence[TenantId], limit: int, length: timedelta, holder: int
) -> list[Lease]:
    """Lease endpoints that are due, except those of the tenants in ``full``. ``holder`` is the number of a lock."""
    rows = await _sql.lease.rows(
        connection, quick=quick, full=list(full), limit=limit, lease_seconds=length.total_seconds(), holder=holder
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


async def appear(connection: Connection) -> int:
    """Take the lock that shows that a dispatcher lives, for the session of the connection; return its number."""
    number: int = await _sql.appear.value(connection)
    return number


async def free_abandoned(connection: Connection, holder: int) -> int:
    """Make due what dispatchers have leased that are gone; return the number of others that hold leases."""
    others: int = await _sql.free_abandoned.value(connection, holder=holder)
    return others


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
    """Return the endpoint of a lease, or None if the lease no longer holds."""
    row = await _sql.read_endpoint.row(
        connection, tenant_id=held.tenant, endpoint_id=held.endpoint_id, epoch=held.epoch
    )
    return None if row is None else Target(**row)


async def read_ready(
    connection: Connection, held: Lease, *, behind: Key, limit: int, max_bytes: int
) -> tuple[list[Delivery], set[Key]]:
    """Return deliveries that were not tried yet, and which of them have to wait for others of their subject."""
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
    """Record outcomes; returns the deliveries that exist and whose lease holds."""
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
    """End a lease; returns False if it no longer holds, or continues because deliveries were added."""
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
