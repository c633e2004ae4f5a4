"""The tables of collections. Every function takes the connection first; none opens a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.collections.collection import (
    Attempt,
    Collection,
    CollectionSetting,
    Deletion,
    Item,
    Match,
    Matches,
    Search,
    StoredItem,
)
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__)


@dataclass(frozen=True, slots=True)
class Found:
    """A collection with its id, which only the database uses."""

    id: int
    collection: Collection


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An item as it is written: its vector as the collection stores it, its attributes as JSON."""

    item: Item
    vector: Sequence[float]
    attributes: bytes


def _found(row: asyncpg.Record | None) -> Found | None:
    if row is None:
        return None
    fields = {name: value for name, value in row.items() if name != "id"}
    return Found(row["id"], Collection(**fields))


async def create(connection: asyncpg.Connection, tenant: TenantId, new: CollectionSetting) -> Found | None:
    """Create a collection; None if there is one of that name."""
    return _found(
        await _sql.create.row(connection, tenant_id=tenant, name=new.name, dimension=new.dimension, metric=new.metric)
    )


async def number_of(connection: asyncpg.Connection, tenant: TenantId) -> int:
    """Return how many collections a tenant has; no other is created until the end of the transaction."""
    await _sql.lock_tenant.run(connection, tenant_id=tenant)
    number: int = await _sql.number_of.value(connection, tenant_id=tenant)
    return number


async def find(connection: asyncpg.Connection, tenant: TenantId, name: str) -> Found | None:
    return _found(await _sql.find.row(connection, tenant_id=tenant, name=name))


async def lock(connection: asyncpg.Connection, tenant: TenantId, name: str) -> Found | None:
    """Return a collection; other writers wait until the end of the transaction."""
    return _found(await _sql.lock.row(connection, tenant_id=tenant, name=name))


async def page(connection: asyncpg.Connection, tenant: TenantId, *, after: str, limit: int) -> list[Collection]:
    rows = await _sql.page.rows(connection, tenant_id=tenant, after=after, limit=limit)
    return [found.collection for row in rows if (found := _found(row)) is not None]


async def remove(connection: asyncpg.Connection, tenant: TenantId, name: str) -> bool:
    return await _sql.remove.value(connection, tenant_id=tenant, name=name) is not None


async def upsert(connection: asyncpg.Connection, tenant: TenantId, into: Found, items: Sequence[Prepared]) -> int:
    """Write items; returns how many were new."""
    new: int = await _sql.upsert.value(
        connection,
        tenant_id=tenant,
        collection_id=into.id,
        dimension=into.collection.dimension,
        keys=[one.item.key for one in items],
        groups=[one.item.group or "" for one in items],
        attributes=[one.attributes for one in items],
        blobs=[one.item.blob for one in items],
        vectors=[number for one in items for number in one.vector],
    )
    return new


async def delete(
    connection: asyncpg.Connection,
    tenant: TenantId,
    of: Found,
    deletion: Deletion,
    attributes: bytes | None,
    *,
    limit: int,
) -> int:
    """Delete items that the deletion selects, about ``limit`` at most; returns how many."""
    place = {"tenant_id": tenant, "collection_id": of.id}
    if deletion.keys is not None:
        number = await _sql.delete_keys.value(connection, **place, keys=deletion.keys)
    elif deletion.group is not None:
        number = await _sql.delete_group.value(connection, **place, group_name=deletion.group, limit=limit)
    else:
        number = await _sql.delete_having.value(connection, **place, attributes=attributes, limit=limit)
    return int(number)


async def count(connection: asyncpg.Connection, tenant: TenantId, of: Found, change: int) -> int:
    """Change how many items a collection has; returns the new number."""
    number: int = await _sql.count.value(connection, tenant_id=tenant, collection_id=of.id, change=change)
    return number


async def item_limit(connection: asyncpg.Connection, tenant: TenantId) -> int | None:
    """Return the most items that the tenant may store, if a quota says so; writers that follow wait for this one."""
    row = await _sql.lock_quota.row(connection, tenant_id=tenant)
    return None if row is None else int(row["most"])


async def stored_items(connection: asyncpg.Connection, tenant: TenantId) -> int:
    """Return how many items all collections of the tenant have."""
    number: int = await _sql.stored_items.value(connection, tenant_id=tenant)
    return number


async def files(
    connection: asyncpg.Connection,
    tenant: TenantId,
    of: Found,
    deletion: Deletion,
    attributes: bytes | None,
    *,
    limit: int,
) -> list[UUID]:
    """Return the blobs that the items name which the deletion selects."""
    rows = await _sql.files.rows(
        connection,
        tenant_id=tenant,
        collection_id=of.id,
        keys=deletion.keys,
        group_name=deletion.group,
        attributes=attributes,
        limit=limit,
    )
    return [row["blob_id"] for row in rows]


async def unknown_blobs(connection: asyncpg.Connection, tenant: TenantId, ids: Sequence[UUID]) -> list[UUID]:
    return [row["id"] for row in await _sql.unknown_blobs.rows(connection, tenant_id=tenant, ids=ids)]


async def items(
    connection: asyncpg.Connection,
    tenant: TenantId,
    of: Found,
    *,
    group: str | None,
    after: str,
    limit: int,
    vectors: bool,
) -> list[StoredItem]:
    """Return items by key, after a key."""
    place: dict[str, Any] = {"tenant_id": tenant, "collection_id": of.id, "after": after, "limit": limit}
    if group is None:
        rows = await _sql.items.rows(connection, **place, with_vectors=vectors)
    else:
        rows = await _sql.items_of_group.rows(connection, **place, group_name=group, with_vectors=vectors)
    return [StoredItem(**_stored(row)) for row in rows]


async def items_by_key(
    connection: asyncpg.Connection, tenant: TenantId, of: Found, keys: Sequence[str], *, vectors: bool
) -> list[StoredItem]:
    rows = await _sql.items_by_key.rows(
        connection, tenant_id=tenant, collection_id=of.id, keys=keys, with_vectors=vectors
    )
    return [StoredItem(**_stored(row)) for row in rows]


def _stored(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "key": row["key"],
        "group": row["group_name"] or None,
        "attributes": Raw(row["attributes"]),
        "blob": row["blob_id"],
        "vector": row["vector"],
    }


async def search(
    connection: asyncpg.Connection,
    tenant: TenantId,
    of: Found,
    wanted: Search,
    vector: Sequence[float],
    attributes: bytes | None,
) -> Matches:
    """Return the nearest items, however far away they are."""
    rows = await _sql.search.rows(
        connection,
        tenant_id=tenant,
        collection_id=of.id,
        vector=vector,
        k=wanted.k,
        group_name=wanted.group,
        attributes=attributes,
        exact=wanted.exact,
        with_vectors=wanted.vectors,
    )
    matches = [Match(distance=row["distance"], **_stored(row)) for row in rows]
    return Matches(matches=matches, exact=not any(row["indexed"] for row in rows))


async def hold_lease(connection: asyncpg.Connection, tenant: TenantId, attempt: Attempt) -> bool:
    """Return whether an attempt has its lease, which nothing then takes from it until the end of the transaction."""
    held = await _sql.hold_lease.value(connection, tenant_id=tenant, job_id=attempt.job_id, epoch=attempt.epoch)
    return held is not None


async def outcome(connection: asyncpg.Connection, tenant: TenantId, attempt: Attempt) -> Raw | None:
    """Return what the job has written, if it has."""
    found: Raw | None = await _sql.outcome.value(connection, tenant_id=tenant, job_id=attempt.job_id)
    return found


async def record(connection: asyncpg.Connection, tenant: TenantId, attempt: Attempt, written: bytes) -> None:
    await _sql.record.run(connection, tenant_id=tenant, job_id=attempt.job_id, outcome=written)


async def forget_writes(connection: asyncpg.Connection, *, keep: timedelta, limit: int) -> int:
    number: int = await _sql.forget_writes.value(connection, keep=keep, limit=limit)
    return number


async def delete_removed(connection: asyncpg.Connection, *, limit: int) -> bool:
    """Delete some of a removed collection; returns whether there may be more."""
    row = await _sql.removed.row(connection)
    if row is None:
        return False
    place = {"tenant_id": row["tenant_id"], "collection_id": row["id"]}
    if await _sql.delete_some.value(connection, **place, limit=limit) == 0:
        await _sql.delete_collection.run(connection, **place)
    return True


async def enable_vector(connection: asyncpg.Connection) -> bool:
    """Install pgvector if that is possible; returns whether it is installed."""
    installed: bool = await _sql.enable_vector.value(connection)
    return installed


async def index_work(connection: asyncpg.Connection, *, min_items: int, max_indexes: int) -> str | None:
    """Return the next statement that brings the indexes in step."""
    work: str | None = await _sql.index_work.value(connection, min_items=min_items, max_indexes=max_indexes)
    return work


async def lock_indexing(connection: asyncpg.Connection, lock_id: int) -> bool:
    """Take the lock of the session that maintains the indexes, until it ends; returns whether it was free."""
    taken: bool = await _sql.lock_indexing.value(connection, id=lock_id)
    return taken
