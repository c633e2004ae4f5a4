"""The use cases of blobs: put, get, read, delete."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import PART_BYTES, POSTGRES, Blob, Place, StoredBlob
from penstock.blobs.names import attachment, filename_of, media_type_of
from penstock.blobs.objects.contract import Description, ObjectMissing, ObjectStore
from penstock.blobs.objects.database import DatabaseObjects, too_slow
from penstock.blobs.objects.stores import ObjectStores
from penstock.blobs.store import Finished
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable, InvalidInput, NotFound, TooLarge
from penstock.postgres.pool import Database
from penstock.telemetry import logs, metrics

log = logs.get(__name__)

_MOVES: Final = 5  # times that a blob may be moved to another store while it is read

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
    ) -> Blob:
        """Store the bytes that ``chunks`` yields. The blob exists only after the return; an error or crash leaves none.

        ``under`` is the key of its object behind the tenant, if it is not an upload; it must be new.

        Raises InvalidInput for a wrong media type, for an empty file, or when the upload took more than twelve hours;
        TooLarge as soon as there are too many bytes; BlobStoreUnavailable; and any exception of ``chunks``.
        """
        media_type, filename = media_type_of(media_type), filename_of(filename)
        bytes_of = _Measured(chunks, self.max_bytes)
        begin = await bytes_of.first(self.inline_bytes + 1)
        if not begin:
            raise InvalidInput.of("body", "is empty: send the file's bytes")
        key = f"{tenant}/{under or f'uploads/{uuid7()}'}"
        if len(begin) <= self.inline_bytes:
            if len(begin) <= PART_BYTES:
                return await self._put_small(tenant, key, bytes_of.finished(media_type, filename, self._keep), begin)
            place = Place(POSTGRES, key)
        else:
            place = Place(await self.stores.current_id(), key)
        await self.write(
            tenant,
            place,
            bytes_of.all(begin),
            Description(media_type=media_type, disposition=attachment(filename).decode()),
        )
        # From here on the object stays: if the connection breaks, it is unknown whether the blob exists.
        async with self._database.acquire() as connection:
            blob = await store.finish(connection, tenant, place, bytes_of.finished(media_type, filename, self._keep))
        if blob is None:
            raise too_slow()
        return blob

    async def _put_small(self, tenant: int, key: str, known: Finished, data: bytes) -> Blob:
        async with self._database.acquire() as connection:
            blob = await store.put_small(connection, tenant, Place(POSTGRES, key), known, data=data)
        _STORED.labels(DatabaseObjects.url).inc(len(data))
        return blob

    async def write(self, tenant: int, place: Place, chunks: AsyncIterator[bytes], description: Description) -> None:
        """Write an object that no blob refers to yet; if that fails, nothing of it stays."""
        objects = await self.stores.holding(place.store_id)
        async with self._database.acquire() as connection:
            await store.begin(connection, tenant, place)
        try:
            await objects.write(place.key, _counted(chunks, objects.url), description)
        except BaseException:  # also when the caller is cancelled; the housekeeper removes what this cannot
            with suppress(DatabaseUnavailable, BlobStoreUnavailable):
                async with self._database.acquire() as connection:
                    await store.give_up(connection, tenant, place)
                await self.clear(tenant, place)
            raise

    async def get(self, tenant: int, blob_id: UUID) -> Blob:
        """Return the description of a blob. Raises NotFound, even if it has only expired."""
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

        Raises NotFound, before the first bytes if there is no such blob, or later if it was deleted meanwhile. A blob
        that is moved to another store meanwhile is read on from there.
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
        raise BlobStoreUnavailable(f"the blob {blob_id} is moved from store to store")

    async def _moved(self, tenant: int, missed: StoredBlob) -> StoredBlob:
        """Return a blob at its new place; raises NotFound if it was not moved but deleted, or its bytes are lost."""
        try:
            found = await self.find(tenant, missed.blob.id)
        except NotFound:
            raise NotFound(f"the blob {missed.blob.id} was deleted while it was read") from None
        if found.place != missed.place:
            return found
        log.error("blob_missing", blob=str(missed.blob.id), key=missed.place.key)
        raise NotFound(f"the bytes of the blob {missed.blob.id} are missing from the store of files")

    async def whole(self, tenant: int, blob_id: UUID, *, max_bytes: int) -> tuple[Blob, bytes]:
        """Return a blob with all its bytes. Raises NotFound, TooLarge."""
        blob = await self.get(tenant, blob_id)
        if blob.size_bytes > max_bytes:
            raise TooLarge(f"blob {blob_id} has {blob.size_bytes} bytes; {max_bytes} are left of what is allowed here")
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


class _Measured:
    """The bytes of an upload, counted and hashed as they pass."""

    def __init__(self, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self._size = 0
        self._digest = hashlib.sha256()

    async def first(self, count: int) -> bytes:
        """Return at least ``count`` bytes from the beginning, or all if there are fewer."""
        begin = bytearray()
        while len(begin) < count:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                break
            self._pass(chunk)
            begin += chunk
        return bytes(begin)

    async def all(self, begin: bytes) -> AsyncIterator[bytes]:
        """Yield ``begin`` and what follows it."""
        yield begin
        del begin
        async for chunk in self._chunks:
            self._pass(chunk)
            yield chunk

    def _pass(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise TooLarge(f"the file has more than the {self._max_bytes} bytes allowed")
        self._digest.update(chunk)

    def finished(self, media_type: str, filename: str | None, keep: timedelta) -> Finished:
        """Return what is known once all bytes have passed."""
        return Finished(
            id=uuid7(),
            media_type=media_type,
            filename=filename,
            size=self._size,
            sha256=self._digest.hexdigest(),
            keep=keep,
        )


async def _counted(chunks: AsyncIterator[bytes], url: str) -> AsyncIterator[bytes]:
    """Yield ``chunks``, and count their bytes as stored in the store at ``url``."""
    count = _STORED.labels(url)
    async for chunk in chunks:
        yield chunk
        count.inc(len(chunk))
