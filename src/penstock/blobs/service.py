"""The use cases of blobs: put, get, read, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import PART_BYTES, POSTGRES, Blob, Place, StoredBlob
from penstock.blobs.measured import Measured
from penstock.blobs.names import attachment, filename_of, media_type_of
from penstock.blobs.objects.contract import Description, ObjectMissing, ObjectStore
from penstock.blobs.objects.database import DatabaseObjects, too_slow
from penstock.blobs.objects.stores import ObjectStores
from penstock.blobs.store import Finished
from penstock.errors import (
    AlreadyExists,
    BlobStoreUnavailable,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    TooLarge,
)
from penstock.postgres.pool import Database
from penstock.telemetry import logs, metrics

log = logs.get(__name__)

_MOVES: Final = 5  # how often a blob may be moved to another store while it is read

_STORED = metrics.counter("penstock_blob_stored_bytes", "Bytes of files stored, by store.", ["store"])
_READ = metrics.counter("penstock_blob_read_bytes", "Bytes of files read, by store.", ["store"])


class BlobService:
    """Blobs of at most ``max_bytes``, which are kept for ``keep``.

    Those of at most ``inline_bytes`` are in PostgreSQL, larger ones in the store ``current``.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_bytes: int,
        keep: timedelta,
        current: ObjectStore | None = None,
        previous: Sequence[ObjectStore] = (),
        inline_bytes: int = PART_BYTES,
    ) -> None:
        self.max_bytes = max_bytes
        self.inline_bytes = inline_bytes
        self.stores = ObjectStores(database, current or DatabaseObjects(database), previous=previous)
        self._database = database
        self._keep = keep

    async def put(
        self,
        tenant: int,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str | None,
        filename: str | None,
        under: str | None = None,
        blob_id: UUID | None = None,
        expected_sha256: str | None = None,
    ) -> Blob:
        """Store the bytes that ``chunks`` yields. The blob exists once this returns, but not after an error or a crash.

        ``under`` is the key of its object, without the tenant, if it is not an upload; it must be new. ``blob_id`` sets
        the id of the blob.

        Raises InvalidInput for a wrong media type, for an empty file, for bytes without the expected SHA-256, or when
        the upload took more than twelve hours; TooLarge as soon as there are too many bytes; AlreadyExists if there is
        a blob of that id; BlobStoreUnavailable; and any exception of ``chunks``.
        """
        media_type, filename = media_type_of(media_type), filename_of(filename)
        measured = Measured(chunks, self.max_bytes, expected_sha256=expected_sha256)
        begin = await measured.first(self.inline_bytes + 1)
        if not begin:
            raise InvalidInput.of("body", "is empty: send the file's bytes")
        inline = len(begin) <= self.inline_bytes
        store_id = POSTGRES if inline else await self.stores.current_id()
        place = Place(store_id, f"{tenant}/{under or f'uploads/{uuid7()}'}")

        def finished() -> Finished:
            return Finished(
                id=blob_id or uuid7(), media_type=media_type, filename=filename, size=measured.size,
                sha256=measured.sha256, keep=self._keep,
            )  # fmt: skip

        if inline and len(begin) <= PART_BYTES:
            return await self._put_small(tenant, place, finished(), begin)
        description = Description(media_type=media_type, disposition=attachment(filename).decode())
        await self.write(tenant, place, measured.all(begin), description)
        return await self._finish(tenant, place, finished())

    async def _put_small(self, tenant: int, place: Place, known: Finished, data: bytes) -> Blob:
        async with self._database.acquire() as connection:
            try:
                blob = await store.put_small(connection, tenant, place, known, data=data)
            except asyncpg.UniqueViolationError:
                raise AlreadyExists(f"the blob {known.id} exists already") from None
        _STORED.labels(DatabaseObjects.url).inc(len(data))
        return blob

    async def _finish(self, tenant: int, place: Place, known: Finished) -> Blob:
        """Make a blob of a written object.

        If the connection breaks, it is unknown whether the blob exists, so the object stays; the housekeeper removes it
        if no blob refers to it.
        """
        refusal: AlreadyExists | InvalidInput = too_slow()
        try:
            async with self._database.acquire() as connection:
                blob = await store.finish(connection, tenant, place, known)
        except asyncpg.UniqueViolationError:
            blob, refusal = None, AlreadyExists(f"the blob {known.id} exists already")
        if blob is None:
            await self.discard(tenant, place)
            raise refusal
        return blob

    async def discard(self, tenant: int, place: Place) -> None:
        """Remove an object that no blob refers to. If this fails, the housekeeper does it later."""
        with suppress(DatabaseUnavailable, BlobStoreUnavailable):
            async with self._database.acquire() as connection:
                await store.give_up(connection, tenant, place)
            await self.clear(tenant, place)

    async def write(self, tenant: int, place: Place, chunks: AsyncIterator[bytes], description: Description) -> None:
        """Write an object that no blob refers to yet. If this fails, nothing of it remains."""
        objects = await self.stores.holding(place.store_id)
        async with self._database.acquire() as connection:
            await store.begin(connection, tenant, place)
        try:
            await objects.write(place.key, _counted(chunks, objects.url), description)
        except BaseException:  # also if the caller is cancelled; the housekeeper removes what this cannot
            await self.discard(tenant, place)
            raise

    async def get(self, tenant: int, blob_id: UUID) -> Blob:
        """Return the description of a blob. Raises NotFound, also if it has expired."""
        return (await self.find(tenant, blob_id)).blob

    async def find(self, tenant: int, blob_id: UUID) -> StoredBlob:
        """Return a blob with the place of its bytes. Raises NotFound."""
        async with self._database.acquire() as connection:
            found = await store.find(connection, tenant, blob_id)
        if found is None:
            raise NotFound(f"there is no blob {blob_id}")
        return found

    async def read(self, tenant: int, blob_id: UUID, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` to before ``end``, up to 512 KiB at a time; no connection is held in between.

        Raises NotFound, before the first bytes if there is no such blob, or later if it was deleted in the meantime. If
        the blob is moved to another store, reading continues there.
        """
        found = await self.find(tenant, blob_id)
        end = found.blob.size_bytes if end is None else min(end, found.blob.size_bytes)
        for _ in range(_MOVES):
            objects = await self.stores.holding(found.place.store_id)
            try:
                async for data in objects.read(found.place.key, start, end):
                    start += len(data)
                    _READ.labels(objects.url).inc(len(data))
                    yield data
                return
            except ObjectMissing:
                found = await self._moved(tenant, found)
        raise BlobStoreUnavailable(f"the blob {blob_id} was moved between stores too often while it was read")

    async def _moved(self, tenant: int, missed: StoredBlob) -> StoredBlob:
        """Return a blob at its new place.

        Raises NotFound if it was deleted instead, or its bytes are lost, and BlobStoreUnavailable if its store is
        unavailable.
        """
        try:
            found = await self.find(tenant, missed.blob.id)
        except NotFound:
            raise NotFound(f"the blob {missed.blob.id} was deleted while it was read") from None
        if found.place != missed.place:
            return found
        await self.stores.checked(await self.stores.holding(found.place.store_id))  # the whole store may be unavailable
        log.error("blob_missing", blob=str(missed.blob.id), key=missed.place.key)
        raise NotFound(f"the bytes of the blob {missed.blob.id} are missing from the store of files")

    async def whole(self, tenant: int, blob_id: UUID, *, max_bytes: int) -> tuple[Blob, bytes]:
        """Return a blob with all its bytes. Raises NotFound, TooLarge."""
        blob = await self.get(tenant, blob_id)
        if blob.size_bytes > max_bytes:
            raise TooLarge(
                f"blob {blob_id} has {blob.size_bytes} bytes, but only {max_bytes} of the allowed bytes are left"
            )
        return blob, b"".join([part async for part in self.read(tenant, blob_id)])

    async def delete(self, tenant: int, blob_id: UUID) -> None:
        """Delete a blob; raises NotFound. If its store is not available, the bytes are removed later."""
        async with self._database.acquire() as connection:
            place = await store.remove(connection, tenant, blob_id)
        if place is None:
            raise NotFound(f"there is no blob {blob_id}")
        with suppress(BlobStoreUnavailable, DatabaseUnavailable):
            await self.clear(tenant, place)

    async def supersede(self, tenant: int, job: str, epoch: int) -> None:
        """Delete the media of results that attempts of a job before ``epoch`` have stored: no result refers to them."""
        async with self._database.acquire() as connection:
            await store.supersede(connection, tenant, f"{tenant}/{job}/", epoch)

    async def clear(self, tenant: int, place: Place) -> None:
        """Remove an object that is due for removal. Raises BlobStoreUnavailable."""
        objects = await self.stores.holding(place.store_id)
        await objects.remove(place.key)
        async with self._database.acquire() as connection:
            await store.forget(connection, tenant, place)


async def _counted(chunks: AsyncIterator[bytes], url: str) -> AsyncIterator[bytes]:
    """Yield ``chunks``, and count their bytes as stored in the store at ``url``."""
    count = _STORED.labels(url)
    async for chunk in chunks:
        yield chunk
        count.inc(len(chunk))
