"""The tables of tenants, keys, tickets, secrets and the audit log.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec

from penstock.access.audit import Action, Recorded
from penstock.access.key import Key, KeyCreation, StoredKey, Tenant
from penstock.postgres import queries
from penstock.tenants.principal import Principal, TenantId

_sql = queries.load(__file__)


class State(NamedTuple):
    """The number of the last change, and whether any key exists."""

    generation: int
    any_key: bool


# Checking keys


async def next_generation(connection: asyncpg.Connection) -> int:
    """Return the number of a change. Changes wait here for each other until their transactions end."""
    number: int = await _sql.next_generation.value(connection)
    return number


async def state(connection: asyncpg.Connection) -> State:
    row = await _sql.state.row(connection)
    assert row is not None  # noqa: S101 - the migration created it
    return State(row["generation"], row["any_key"])


async def keys(connection: asyncpg.Connection, ids: Sequence[str]) -> dict[str, StoredKey]:
    """Return keys by id; those that do not exist are left out."""
    return {row["id"]: _stored(row) for row in await _sql.keys.rows(connection, ids=ids)}


async def changed_keys(connection: asyncpg.Connection, after: int) -> list[str]:
    return [row["id"] for row in await _sql.changed_keys.rows(connection, after=after)]


async def used(connection: asyncpg.Connection, ids: Collection[str]) -> None:
    await _sql.used.run(connection, ids=list(ids))


async def move(connection: asyncpg.Connection, key_id: str, *, old: str, new: str, digest: bytes) -> None:
    """Store a key's digest under the secret ``new`` if it is still under ``old``."""
    await _sql.move.run(connection, id=key_id, old_secret_id=old, digest=digest, secret_id=new)


# Managing keys


async def create_key(
    connection: asyncpg.Connection,
    tenant: int,
    key_id: str,
    creation: KeyCreation,
    *,
    digest: bytes,
    secret_id: str,
    created_by: str,
    generation: int,
) -> None:
    await _sql.create_key.run(
        connection,
        tenant_id=tenant,
        id=key_id,
        **msgspec.structs.asdict(creation),
        digest=digest,
        secret_id=secret_id,
        created_by=created_by,
        generation=generation,
    )


async def key(connection: asyncpg.Connection, tenant: int, key_id: str) -> Key | None:
    row = await _sql.key.row(connection, tenant_id=tenant, id=key_id)
    return None if row is None else Key(**row)


async def keys_of(connection: asyncpg.Connection, tenant: int, *, at_most: int) -> list[Key]:
    return [Key(**row) for row in await _sql.keys_of.rows(connection, tenant_id=tenant, at_most=at_most)]


async def live_keys(connection: asyncpg.Connection, tenant: int) -> int:
    number: int = await _sql.live_keys.value(connection, tenant_id=tenant)
    return number


async def change_key(connection: asyncpg.Connection, tenant: int, changed: Key, generation: int) -> None:
    await _sql.change_key.run(
        connection,
        tenant_id=tenant,
        id=changed.id,
        name=changed.name,
        scopes=changed.scopes,
        models=changed.models,
        queues=changed.queues,
        apps=changed.apps,
        expires_at=changed.expires_at,
        generation=generation,
    )


async def revoke(connection: asyncpg.Connection, tenant: int, key_id: str, generation: int) -> None:
    await _sql.revoke.run(connection, tenant_id=tenant, id=key_id, generation=generation)


async def replace_key(
    connection: asyncpg.Connection, tenant: int, key_id: str, *, by: str, overlap_seconds: float, generation: int
) -> None:
    await _sql.replace_key.run(
        connection,
        tenant_id=tenant,
        id=key_id,
        replaced_by=by,
        overlap_seconds=overlap_seconds,
        generation=generation,
    )


# Managing tenants


async def create_tenant(connection: asyncpg.Connection, name: str, time_zone: str, generation: int) -> bool:
    """Create a tenant; return False where the name is taken."""
    created = await _sql.create_tenant.value(connection, name=name, time_zone=time_zone, generation=generation)
    return created is not None


async def tenant(connection: asyncpg.Connection, name: str) -> tuple[TenantId, Tenant] | None:
    row = await _sql.tenant.row(connection, name=name)
    if row is None:
        return None
    fields = dict(row)
    return TenantId(fields.pop("id")), Tenant(**fields)


async def active_tenants(connection: asyncpg.Connection, names: Sequence[str]) -> set[str]:
    """Return which of the given tenants are not suspended."""
    return {row["name"] for row in await _sql.active_tenants.rows(connection, names=names)}


async def tenants(connection: asyncpg.Connection, *, after: str, at_most: int) -> list[Tenant]:
    return [Tenant(**row) for row in await _sql.tenants.rows(connection, after=after, at_most=at_most)]


async def change_tenant(connection: asyncpg.Connection, changed: Tenant, *, suspended: bool, generation: int) -> None:
    await _sql.change_tenant.run(
        connection, name=changed.name, time_zone=changed.time_zone, suspended=suspended, generation=generation
    )


async def begin_deletion(connection: asyncpg.Connection, name: str, *, with_usage: bool, generation: int) -> None:
    """Have a suspended tenant deleted by the housekeeper."""
    await _sql.begin_deletion.run(connection, name=name, with_usage=with_usage, generation=generation)


# The audit log


async def record(connection: asyncpg.Connection, tenant: int, sender: Principal, address: str, action: Action) -> None:
    await _sql.audit.run(
        connection,
        tenant_id=tenant,
        key_id=sender.key or "",
        user_id=sender.user or "",
        address=address,
        action=action.name,
        subject=action.subject,
        before=_json(action.before),
        after=_json(action.after),
    )


async def recorded(
    connection: asyncpg.Connection,
    tenant: int,
    *,
    before: int,
    action: str | None,
    subject: str | None,
    at_most: int,
) -> list[Recorded]:
    rows = await _sql.audit_of.rows(
        connection, tenant_id=tenant, before_id=before, action=action, subject=subject, at_most=at_most
    )
    return [Recorded(**row) for row in rows]


# The secrets of the installation


async def secrets(connection: asyncpg.Connection) -> dict[str, bytes]:
    """Return the canaries by the ids of their secrets, the oldest first."""
    return {row["id"]: row["canary"] for row in await _sql.secrets.rows(connection)}


async def add_secret(connection: asyncpg.Connection, secret_id: str, canary: bytes) -> None:
    await _sql.add_secret.run(connection, id=secret_id, canary=canary)


async def remove_secret(connection: asyncpg.Connection, secret_id: str) -> None:
    """Remove a secret, with the ended keys whose digests it made. Valid ones make this fail."""
    await _sql.drop_ended_keys_under.run(connection, secret_id=secret_id)
    await _sql.remove_secret.run(connection, id=secret_id)


async def keys_under(connection: asyncpg.Connection, secret_id: str, *, at_most: int) -> list[str]:
    """Return the valid keys whose digests a secret made, each as ``tenant/name (id)``."""
    rows = await _sql.keys_under.rows(connection, secret_id=secret_id, at_most=at_most)
    return [f"{row['tenant_name']}/{row['name']} ({row['id']})" for row in rows]


# Tickets


async def use_ticket(connection: asyncpg.Connection, ticket_id: str, ttl_seconds: float) -> bool:
    """Use a ticket that is valid once; return False if it has been used."""
    return await _sql.use_ticket.value(connection, id=ticket_id, ttl_seconds=ttl_seconds) is not None


async def drop_used_tickets(connection: asyncpg.Connection) -> None:
    await _sql.drop_used_tickets.run(connection)


def _json(fields: dict[str, Any] | None) -> bytes | None:
    return None if fields is None else msgspec.json.encode(fields)


def _stored(row: asyncpg.Record) -> StoredKey:
    return StoredKey(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        tenant_name=row["tenant_name"],
        scopes=frozenset(row["scopes"]),
        models=_set(row["models"]),
        queues=_set(row["queues"]),
        apps=_set(row["apps"]),
        digest=row["digest"],
        secret_id=row["secret_id"],
        expires_in=row["expires_in"],
        expires_at=row["expires_at"],
        revoked=row["revoked"],
        suspended=row["suspended"],
        generation=row["generation"],
    )


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
