"""The use cases of blobs: put, get, read, delete."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import PART_BYTES, Blob
from penstock.blobs.names import filename_of, media_type_of
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, TooLarge
from penstock.postgres.pool import Database

_BATCH: Final = 32  # parts that one statement removes


class BlobService:
    """Blobs of at most ``max_bytes``, which are kept for ``keep``."""

    def __init__(self, database: Database, *, max_bytes: int, keep: timedelta) -> None:
        self.max_bytes = max_bytes
        self._database = database
        self._keep = keep

    async def put(
        self, tenant: int, chunks: AsyncIterator[bytes], *, media_type: str | None, filename: str | None
    ) -> Blob:
        """Store the bytes that ``chunks`` yields. The blob exists only after the return; an error or crash leaves none.

        Raises InvalidInput for a wrong media type, for an empty file, or when the upload took more than twelve hours;
        TooLarge as soon as there are too many bytes; and any exception of ``chunks``.
        """
        upload = _Upload(self._database, tenant, self.max_bytes)
        media_type, filename = media_type_of(media_type), filename_of(filename)
        try:
            await upload.take(chunks)
        except BaseException:  # also when the caller is cancelled; the housekeeper removes the parts that this cannot
            with suppress(DatabaseUnavailable):
                await drop_parts(self._database, tenant, upload.id)
            raise
        # From here on the parts stay: if the connection breaks, it is unknown whether the blob exists.
        async with self._database.acquire() as connection:
            blob = await store.finish(
                connection,
                tenant,
                upload.id,
                media_type=media_type,
                filename=filename,
                size=upload.size,
                sha256=upload.digest.hexdigest(),
                keep=self._keep,
            )
        if blob is None:
            raise too_slow()
        return blob

    async def get(self, tenant: int, blob_id: UUID) -> Blob:
        """Return the description of a blob. Raises NotFound, even if it has only expired."""
        async with self._database.acquire() as connection:
            blob = await store.find(connection, tenant, blob_id)
        if blob is None:
            raise NotFound(f"there is no blob {blob_id}")
        return blob

    async def read(self, tenant: int, blob_id: UUID, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` to before ``end``, up to 512 KiB at a time; no connection is held in between.

        Raises NotFound, before the first bytes if there is no such blob, or later if it was deleted meanwhile.
        """
        blob = await self.get(tenant, blob_id)
        position, end = start, blob.size_bytes if end is None else min(end, blob.size_bytes)
        while position < end:
            number, first = divmod(position, PART_BYTES)
            count = min(PART_BYTES - first, end - position)
            async with self._database.acquire() as connection:
                data = await store.read_part(connection, tenant, blob_id, number, first=first, count=count)
            if data is None or len(data) != count:
                raise NotFound(f"the blob {blob_id} was deleted while it was read")
            yield data
            position += count

    async def whole(self, tenant: int, blob_id: UUID, *, max_bytes: int) -> tuple[Blob, bytes]:
        """Return a blob with all its bytes. Raises NotFound, TooLarge."""
        blob = await self.get(tenant, blob_id)
        if blob.size_bytes > max_bytes:
            raise TooLarge(f"blob {blob_id} has {blob.size_bytes} bytes; {max_bytes} are left of what is allowed here")
        return blob, b"".join([part async for part in self.read(tenant, blob_id)])

    async def delete(self, tenant: int, blob_id: UUID) -> None:
        """Delete a blob; raises NotFound."""
        async with self._database.acquire() as connection:
            if not await store.remove(connection, tenant, blob_id):
                raise NotFound(f"there is no blob {blob_id}")
        await drop_parts(self._database, tenant, blob_id)


class _Upload:
    """Collects bytes into parts and stores them."""

    def __init__(self, database: Database, tenant: int, max_bytes: int) -> None:
        self.id = uuid7()
        self.size = 0
        self.digest = hashlib.sha256()
        self._database = database
        self._tenant = tenant
        self._max_bytes = max_bytes
        self._parts = 0

    async def take(self, chunks: AsyncIterator[bytes]) -> None:
        pending = bytearray()
        async for chunk in chunks:
            self.size += len(chunk)
            if self.size > self._max_bytes:
                raise TooLarge(f"the file has more than the {self._max_bytes} bytes allowed")
            self.digest.update(chunk)
            pending += chunk
            while len(pending) >= PART_BYTES:
                await self._keep(bytes(pending[:PART_BYTES]))
                del pending[:PART_BYTES]
        if not self.size:
            raise InvalidInput.of("body", "is empty: send the file's bytes")
        if pending:
            await self._keep(bytes(pending))

    async def _keep(self, data: bytes) -> None:
        async with self._database.acquire() as connection:
            if not await store.put_part(connection, self._tenant, self.id, self._parts, data):
                raise too_slow()
        self._parts += 1


async def drop_parts(database: Database, tenant: int, blob_id: UUID) -> None:
    """Remove the parts that belong to no blob, a few at a time."""
    while True:
        async with database.acquire() as connection:
            if not await store.drop_parts(connection, tenant, blob_id, limit=_BATCH):
                return


def too_slow() -> InvalidInput:
    return InvalidInput.of("body", "took more than twelve hours to arrive")
