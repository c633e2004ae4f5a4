"""The tables of blobs, of the objects that hold their bytes, and of the parts of objects in PostgreSQL.

Every function takes the connection first and the tenant second, except those about stores, and those that remove old
data, which apply to all tenants and return the tenant of each row. None opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from penstock.blobs.blob import Blob, Place, StoredBlob
from penstock.postgres import queries

_sql = queries.load(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownStore:
    """A store of objects that the database knows."""

    id: UUID
    url: str
    marked: bool  # the store holds a file with the id


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The description of a file whose bytes have all been received."""

    id: UUID
    media_type: str
    filename: str | None
    size: int  # bytes
    sha256: str
    keep: timedelta


async def stores(connection: asyncpg.Connection) -> list[KnownStore]:
    """Return the stores that hold objects, or held some once."""
    return [KnownStore(**row) for row in await _sql.stores.rows(connection)]


async def add_store(connection: asyncpg.Connection, store_id: UUID, url: str) -> None:
    """Add a store, unless there is one of that URL."""
    await _sql.add_store.run(connection, id=store_id, url=url)


async def store_marked(connection: asyncpg.Connection, store_id: UUID) -> None:
    """Record that a store has the file with its id."""
    await _sql.store_marked.run(connection, id=store_id)


async def begin(connection: asyncpg.Connection, tenant: int, place: Place) -> None:
    """Announce an object that is about to be written; it is removed after a day unless a blob refers to it."""
    await _sql.begin.run(connection, tenant_id=tenant, store_id=place.store_id, key=place.key)


async def finish(connection: asyncpg.Connection, tenant: int, place: Place, known: Finished) -> Blob | None:
    """Create a blob of a written object; return None when the write has lasted too long."""
    row = await _sql.finish.row(
        connection,
        tenant_id=tenant,
        id=known.id,
        media_type=known.media_type,
        filename=known.filename,
        size_bytes=known.size,
        sha256=known.sha256,
        keep_seconds=known.keep.total_seconds(),
        store_id=place.store_id,
        key=place.key,
    )
    return None if row is None else Blob(**row)


async def put_small(connection: asyncpg.Connection, tenant: int, place: Place, known: Finished, *, data: bytes) -> Blob:
    """Create a blob of one part, with that part."""
    row = await _sql.put_small.row(
        connection,
        tenant_id=tenant,
        id=known.id,
        media_type=known.media_type,
        filename=known.filename,
        sha256=known.sha256,
        keep_seconds=known.keep.total_seconds(),
        store_id=place.store_id,
        key=place.key,
        data=data,
    )
    if row is None:
        raise AssertionError("an INSERT of one row returns it")
    return Blob(**row)


async def put_part(connection: asyncpg.Connection, tenant: int, place: Place, number: int, data: bytes) -> bool:
    """Store one part of an announced object; return False when its write has lasted too long."""
    kept = await _sql.put_part.value(
        connection, tenant_id=tenant, store_id=place.store_id, key=place.key, number=number, data=data
    )
    return kept is not None


async def find(connection: asyncpg.Connection, tenant: int, blob_id: UUID) -> StoredBlob | None:
    """Return a blob that has not expired."""
    row = await _sql.find.row(connection, tenant_id=tenant, id=blob_id)
    if row is None:
        return None
    known = dict(row)
    place = Place(known.pop("store_id"), known.pop("key"))
    missing_at, read_at = known.pop("missing_at"), known.pop("read_at")
    return StoredBlob(blob=Blob(**known), place=place, missing_at=missing_at, read_at=read_at)


async def read_part(
    connection: asyncpg.Connection, tenant: int, key: str, number: int, *, first: int, count: int
) -> bytes | None:
    """Return a number of bytes of a part, from ``first`` on; None when the part is gone."""
    data: bytes | None = await _sql.read_part.value(
        connection, tenant_id=tenant, key=key, number=number, first=first, count=count
    )
    return data


async def size_of_parts(connection: asyncpg.Connection, tenant: int, key: str) -> int | None:
    """Return the size of an object in PostgreSQL; None if it has no parts."""
    size: int | None = await _sql.size_of_parts.value(connection, tenant_id=tenant, key=key)
    return size


async def remove(connection: asyncpg.Connection, tenant: int, blob_id: UUID) -> Place | None:
    """Remove a blob, and return its object, which is due for removal."""
    row = await _sql.remove.row(connection, tenant_id=tenant, id=blob_id)
    return None if row is None else Place(row["store_id"], row["key"])


async def supersede(connection: asyncpg.Connection, tenant: int, prefix: str, epoch: int) -> None:
    """Remove the blobs below ``prefix``, a job's, that attempts before ``epoch`` have stored."""
    await _sql.supersede.run(connection, tenant_id=tenant, prefix=prefix, epoch=epoch)


async def drop_parts(connection: asyncpg.Connection, tenant: int, place: Place, *, limit: int) -> int:
    """Remove a limited number of parts of an object that belongs to no blob; return how many."""
    dropped: int = await _sql.drop_parts.value(
        connection, tenant_id=tenant, store_id=place.store_id, key=place.key, limit=limit
    )
    return dropped


async def give_up(connection: asyncpg.Connection, tenant: int, place: Place) -> None:
    """Make an announced object due for removal now."""
    await _sql.give_up.run(connection, tenant_id=tenant, store_id=place.store_id, key=place.key)


async def forget(connection: asyncpg.Connection, tenant: int, place: Place) -> None:
    """Forget an object that has been removed."""
    await _sql.forget.run(connection, tenant_id=tenant, store_id=place.store_id, key=place.key)


async def remove_all(connection: asyncpg.Connection, tenant: int, *, limit: int) -> bool:
    """Remove blobs of a tenant, a limited number at a time; return whether it has any, or objects to remove."""
    left: bool = await _sql.remove_all.value(connection, tenant_id=tenant, limit=limit)
    return left


async def expire(connection: asyncpg.Connection, *, limit: int) -> int:
    """Remove blobs that have expired; return how many."""
    expired: int = await _sql.expire.value(connection, limit=limit)
    return expired


async def due(connection: asyncpg.Connection, *, limit: int) -> list[tuple[int, Place]]:
    """Return objects to remove, with their tenants. Those that are not forgotten are due again in ten minutes."""
    rows = await _sql.due.rows(connection, limit=limit)
    return [(row["tenant_id"], Place(row["store_id"], row["key"])) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Misplaced:
    """A blob that is not in the store that a new blob of its size would go to."""

    tenant_id: int
    id: UUID
    media_type: str
    filename: str | None
    size_bytes: int
    sha256: str
    store_id: UUID
    key: str

    @property
    def place(self) -> Place:
        return Place(self.store_id, self.key)


async def misplaced(
    connection: asyncpg.Connection, *, after: tuple[int, UUID], store_id: UUID, inline_bytes: int, limit: int
) -> list[Misplaced]:
    """Return blobs of all tenants that are not in the store that a new blob of their size would go to."""
    rows = await _sql.misplaced.rows(
        connection,
        tenant_id_after=after[0],
        id_after=after[1],
        store_id=store_id,
        inline_bytes=inline_bytes,
        limit=limit,
    )
    return [Misplaced(**row) for row in rows]


async def move(connection: asyncpg.Connection, tenant: int, blob_id: UUID, place: Place, *, to: Place) -> bool:
    """Make a blob refer to a copy; its object is then due for removal. Return False if the blob has changed."""
    moved = await _sql.move.value(
        connection,
        tenant_id=tenant,
        id=blob_id,
        from_store_id=place.store_id,
        from_key=place.key,
        store_id=to.store_id,
        key=to.key,
    )
    return moved is not None


async def unknown_objects(connection: asyncpg.Connection, store_id: UUID, keys: Sequence[str]) -> list[str]:
    """Return which of these objects neither a blob nor a leftover refers to."""
    return [row["key"] for row in await _sql.unknown_objects.rows(connection, store_id=store_id, keys=keys)]


async def add_leftovers(connection: asyncpg.Connection, store_id: UUID, keys: Sequence[str]) -> None:
    """Make objects that nothing refers to due for removal."""
    await _sql.add_leftovers.run(connection, store_id=store_id, keys=keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """An object that a blob refers to."""

    tenant_id: int
    id: UUID
    key: str
    missing: bool  # it was missing before


async def expected_objects(
    connection: asyncpg.Connection, store_id: UUID, *, after: str, until: str | None, limit: int
) -> list[Expected]:
    """Return objects of a store that blobs refer to, in the order of their keys."""
    rows = await _sql.expected_objects.rows(connection, store_id=store_id, after=after, until=until, limit=limit)
    return [Expected(**row) for row in rows]


async def mark_missing(connection: asyncpg.Connection, place: Place, *, missing: bool) -> None:
    """Record whether the object of a blob is missing."""
    await _sql.mark_missing.run(connection, store_id=place.store_id, key=place.key, missing=missing)


async def trouble(connection: asyncpg.Connection, *, limit: int) -> tuple[int, int]:
    """Count blobs whose object is missing, and objects that are due for removal, each up to ``limit``."""
    row = await _sql.trouble.row(connection, limit=limit)
    return (0, 0) if row is None else (row["missing"], row["due"])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part of an upload, with the place of its bytes."""

    number: int
    size_bytes: int
    sha256: str
    store_id: UUID
    key: str


async def begin_upload(
    connection: asyncpg.Connection, tenant: int, upload_id: UUID, *, media_type: str, filename: str | None, limit: int
) -> dict[str, Any] | None:
    """Begin an upload in parts; return None if the tenant has ``limit`` of them already."""
    row = await _sql.begin_upload.row(
        connection, tenant_id=tenant, id=upload_id, media_type=media_type, filename=filename, limit=limit
    )
    return None if row is None else dict(row)


async def upload(connection: asyncpg.Connection, tenant: int, upload_id: UUID) -> dict[str, Any] | None:
    """Return the fields of an upload in parts that has not expired."""
    row = await _sql.upload.row(connection, tenant_id=tenant, id=upload_id)
    return None if row is None else dict(row)


async def parts_of(connection: asyncpg.Connection, tenant: int, upload_id: UUID) -> list[StoredPart]:
    """Return the stored parts of an upload, in order."""
    return [StoredPart(**row) for row in await _sql.parts_of.rows(connection, tenant_id=tenant, upload_id=upload_id)]


async def bytes_of_others(connection: asyncpg.Connection, tenant: int, upload_id: UUID, number: int) -> int | None:
    """Return the bytes of an upload's parts but one; None if there is no such upload."""
    found: int | None = await _sql.bytes_of_others.value(
        connection, tenant_id=tenant, upload_id=upload_id, number=number
    )
    return found


async def keep_part(connection: asyncpg.Connection, tenant: int, upload_id: UUID, part: StoredPart) -> bool:
    """Make a written object a part of an upload; return False if the upload has ended."""
    kept = await _sql.keep_part.value(
        connection,
        tenant_id=tenant,
        upload_id=upload_id,
        number=part.number,
        size_bytes=part.size_bytes,
        sha256=part.sha256,
        store_id=part.store_id,
        key=part.key,
    )
    return kept is not None


async def end_upload(connection: asyncpg.Connection, tenant: int, upload_id: UUID) -> list[Place]:
    """Remove an upload with its parts, and return their objects, which are due for removal."""
    rows = await _sql.end_upload.rows(connection, tenant_id=tenant, id=upload_id)
    return [Place(row["store_id"], row["key"]) for row in rows]


async def expire_uploads(connection: asyncpg.Connection, *, limit: int) -> None:
    """Remove uploads in parts that were not completed in time."""
    await _sql.expire_uploads.run(connection, limit=limit)
