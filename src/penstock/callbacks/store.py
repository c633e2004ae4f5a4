"""The tables of endpoints, and what is read of deliveries: typed functions for ``queries.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from penstock.callbacks.endpoint import Attempt, DeliveryStatus, DeliveryView, Endpoint
from penstock.callbacks.message import Key, message_id
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection
FIRST: Final = (2**62, 2**31 - 1)  # before the newest delivery

_sql = queries.load(__file__)
_attempts = msgspec.json.Decoder(list[Attempt])


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEndpoint:
    """An endpoint that submissions name."""

    id: UUID
    digest: bytes
    url: str
    events: Sequence[str]
    sealed: bytes | None
    secret_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecrets:
    """The encrypted secrets of an endpoint."""

    tenant: TenantId
    id: UUID
    sealed: bytes
    previous_sealed: bytes | None


async def begin(connection: Connection, tenant: TenantId, *, kinds: Sequence[str] = ()) -> bool:
    """Make the events of a tenant become deliveries from now on; returns whether it had no endpoint before."""
    began: bool = await _sql.begin.value(connection, tenant_id=tenant, kinds=list(kinds))
    return began


async def end_position(connection: Connection, tenant: TenantId) -> int:
    position: int = await _sql.end_position.value(connection, tenant_id=tenant)
    return position


async def number_of(connection: Connection, tenant: TenantId) -> int:
    number: int = await _sql.number_of.value(connection, tenant_id=tenant)
    return number


async def create(
    connection: Connection,
    tenant: TenantId,
    endpoint_id: UUID,
    *,
    url: str,
    events: Sequence[str],
    description: str,
    sealed: bytes,
    secret_id: str,
) -> None:
    await _sql.create.run(
        connection,
        tenant_id=tenant,
        id=endpoint_id,
        url=url,
        events=events,
        description=description,
        sealed=sealed,
        secret_id=secret_id,
        since=await end_position(connection, tenant),
    )


async def name_endpoints(
    connection: Connection, tenant: TenantId, wanted: Sequence[NamedEndpoint]
) -> Mapping[bytes, UUID]:
    """Return the endpoints that submissions name, by digest, and add those that are missing."""
    found: dict[bytes, UUID] = {}
    while missing := [one for one in wanted if one.digest not in found]:
        rows = await _sql.name_endpoints.rows(
            connection,
            tenant_id=tenant,
            ids=[one.id for one in missing],
            digests=[one.digest for one in missing],
            urls=[one.url for one in missing],
            events=[",".join(one.events) for one in missing],
            sealed=[one.sealed for one in missing],
            secret_ids=[one.secret_id for one in missing],
        )
        found |= {row["digest"]: row["id"] for row in rows}
    return found


async def attach(
    connection: Connection,
    tenant: TenantId,
    endpoints: Mapping[UUID, tuple[UUID | None, UUID | None]],
    *,
    kinds: Sequence[str],
) -> bool:
    """Give new jobs their endpoints, which want events of these types; returns whether the tenant had none before.

    A job has the endpoint that its submission named and that of the marketplace, or one of them.
    """
    await _sql.attach.run(
        connection,
        tenant_id=tenant,
        job_ids=list(endpoints),
        endpoint_ids=[named for named, _ in endpoints.values()],
        marketplace_ids=[marketplace for _, marketplace in endpoints.values()],
    )
    return await begin(connection, tenant, kinds=kinds)


async def of_jobs(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return the endpoints that the submissions of jobs named."""
    rows = await _sql.of_jobs.rows(connection, tenant_id=tenant, job_ids=job_ids)
    return {row["job_id"]: row["endpoint_id"] for row in rows}


async def endpoint(
    connection: Connection, tenant: TenantId, endpoint_id: UUID, *, hidden: str | None
) -> Endpoint | None:
    """Return an endpoint, unless its URL is the hidden one."""
    row = await _sql.endpoint.row(connection, tenant_id=tenant, id=endpoint_id, hidden=hidden)
    return None if row is None else _endpoint(row)


async def endpoints(
    connection: Connection, tenant: TenantId, *, registered: bool, after: UUID, at_most: int, hidden: str | None
) -> list[Endpoint]:
    """Return endpoints in the order of their ids, without those whose URL is the hidden one."""
    rows = await _sql.endpoints.rows(
        connection, tenant_id=tenant, registered=registered, after=after, at_most=at_most, hidden=hidden
    )
    return [_endpoint(row) for row in rows]


async def lock_endpoint(
    connection: Connection, tenant: TenantId, endpoint_id: UUID
) -> tuple[bytes | None, str | None] | None:
    """Lock an endpoint; returns its encrypted secret and the id of what encrypts it, or None if it does not exist."""
    row = await _sql.lock_endpoint.row(connection, tenant_id=tenant, id=endpoint_id)
    return None if row is None else (row["sealed"], row["secret_id"])


async def change(connection: Connection, tenant: TenantId, changed: Endpoint) -> None:
    await _sql.change.run(
        connection,
        tenant_id=tenant,
        id=changed.id,
        url=changed.url,
        events=changed.events,
        description=changed.description,
    )


async def disable(connection: Connection, tenant: TenantId, endpoint_id: UUID, *, reason: str) -> None:
    await _sql.disable.run(connection, tenant_id=tenant, id=endpoint_id, reason=reason)


async def enable(connection: Connection, tenant: TenantId, endpoint_id: UUID) -> None:
    """Enable an endpoint, for events from now on and for what waits."""
    since = await end_position(connection, tenant)
    await _sql.enable.run(connection, tenant_id=tenant, id=endpoint_id, since=since)


async def rotate(
    connection: Connection,
    tenant: TenantId,
    endpoint_id: UUID,
    *,
    sealed: bytes,
    previous_sealed: bytes | None,
    secret_id: str,
    overlap_seconds: float,
) -> None:
    await _sql.rotate.run(
        connection,
        tenant_id=tenant,
        id=endpoint_id,
        sealed=sealed,
        previous_sealed=previous_sealed,
        secret_id=secret_id,
        overlap_seconds=overlap_seconds,
    )


async def remove(connection: Connection, tenant: TenantId, endpoint_id: UUID) -> None:
    await _sql.remove.run(connection, tenant_id=tenant, id=endpoint_id)


async def deliveries(
    connection: Connection,
    tenant: TenantId,
    endpoint_id: UUID,
    *,
    status: DeliveryStatus | None,
    before: Key,
    at_most: int,
) -> list[DeliveryView]:
    """Return deliveries, the newest event first."""
    rows = await _sql.deliveries.rows(
        connection,
        tenant_id=tenant,
        endpoint_id=endpoint_id,
        status=status,
        position=before[0],
        place=before[1],
        at_most=at_most,
    )
    return [
        DeliveryView(
            id=message_id(tenant, row["position"], row["place"], row["mark"]),
            type=row["kind"],
            subject=row["subject"],
            time=row["at"],
            status=row["status"],
            next_attempt_at=row["due_at"],
            ended_at=row["ended_at"],
            attempts=_attempts.decode(row["attempts"]),
        )
        for row in rows
    ]


async def replay(
    connection: Connection, tenant: TenantId, endpoint_id: UUID, *, keys: Sequence[Key] = (), dead_limit: int = 0
) -> int:
    """Make deliveries that have ended due again: those named, and the oldest dead ones; returns how many."""
    number: int = await _sql.replay.value(
        connection,
        tenant_id=tenant,
        endpoint_id=endpoint_id,
        positions=[position for position, _ in keys],
        places=[place for _, place in keys],
        dead_limit=dead_limit,
    )
    return number


async def sealed_under(connection: Connection, secret_id: str) -> list[SealedSecrets]:
    """Return the endpoints whose secrets a secret of the installation encrypts; they stay locked."""
    return [
        SealedSecrets(
            tenant=TenantId(row["tenant_id"]),
            id=row["id"],
            sealed=row["sealed"],
            previous_sealed=row["previous_sealed"],
        )
        for row in await _sql.sealed_under.rows(connection, secret_id=secret_id)
    ]


async def reseal(connection: Connection, changed: SealedSecrets, *, secret_id: str) -> None:
    await _sql.reseal.run(
        connection,
        tenant_id=changed.tenant,
        id=changed.id,
        sealed=changed.sealed,
        previous_sealed=changed.previous_sealed,
        secret_id=secret_id,
    )


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(
        id=row["id"],
        url=row["url"],
        events=row["events"],
        description=row["description"],
        registered=row["registered"],
        signed=row["signed"],
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
        disabled_reason=row["disabled_reason"],
        previous_secret_until=row["previous_secret_until"],
        waiting=row["waiting"] or 0,
        delivered=row["delivered"] or 0,
        dead=row["dead"] or 0,
        failed_attempts=row["failed"] or 0,
        failing_since=row["failing_since"],
        resting_until=row["rest_until"],
    )
