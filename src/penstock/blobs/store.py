"""The tables of blobs and their parts. Every function takes the connection first and the tenant second, except those
that remove old data, which apply to all tenants and return the tenant of each row. None opens a transaction."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import asyncpg

from penstock.blobs.blob import Blob
from penstock.postgres import queries

_sql = queries.load(__file__)


async def put_part(connection: asyncpg.Connection, tenant: int, blob_id: UUID, number: int, data: bytes) -> bool:
    """Store one part; return False when the upload has lasted too long."""
    kept = await _sql.put_part.value(connection, tenant_id=tenant, blob_id=blob_id, number=number, data=data)
    return kept is not None


async def finish(
    connection: asyncpg.Connection,
    tenant: int,
    blob_id: UUID,
    *,
    media_type: str,
    filename: str | None,
    size: int,
    sha256: str,
    keep: timedelta,
) -> Blob | None:
    """Create a blob from the stored parts; return None when the upload has lasted too long."""
    row = await _sql.finish.row(
        connection,
        tenant_id=tenant,
        id=blob_id,
        media_type=media_type,
        filename=filename,
        size_bytes=size,
        sha256=sha256,
        keep_seconds=keep.total_seconds(),
    )
    return None if row is None else Blob(**row)


async def find(connection: asyncpg.Connection, tenant: int, blob_id: UUID) -> Blob | None:
    """Return a blob that has not expired."""
    row = await _sql.find.row(connection, tenant_id=tenant, id=blob_id)
    return None if row is None else Blob(**row)


async def read_part(
    connection: asyncpg.Connection, tenant: int, blob_id: UUID, number: int, *, first: int, count: int
) -> bytes | None:
    """Return a number of bytes of a part, from ``first`` on; None when the part is gone."""
    data: bytes | None = await _sql.read_part.value(
        connection, tenant_id=tenant, blob_id=blob_id, number=number, first=first, count=count
    )
    return data


async def remove(connection: asyncpg.Connection, tenant: int, blob_id: UUID) -> bool:
    """Remove a blob, but not its parts."""
    return await _sql.remove.value(connection, tenant_id=tenant, id=blob_id) is not None


async def drop_parts(connection: asyncpg.Connection, tenant: int, blob_id: UUID, *, limit: int) -> int:
    """Remove a limited number of parts that belong to no blob; return how many."""
    dropped: int = await _sql.drop_parts.value(connection, tenant_id=tenant, blob_id=blob_id, limit=limit)
    return dropped


async def expire(connection: asyncpg.Connection, *, limit: int) -> list[tuple[int, UUID]]:
    """Remove blobs that have expired; return their tenants and ids."""
    return [(row["tenant_id"], row["id"]) for row in await _sql.expire.rows(connection, limit=limit)]


async def abandoned(connection: asyncpg.Connection, *, limit: int) -> list[tuple[int, UUID]]:
    """Return tenants and ids of parts that have belonged to no blob for a day."""
    return [(row["tenant_id"], row["id"]) for row in await _sql.abandoned.rows(connection, limit=limit)]
