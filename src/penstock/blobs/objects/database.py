"""Objects in PostgreSQL, in parts, so that gateways and workers on different machines share them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from penstock.blobs import store
from penstock.blobs.blob import PART_BYTES, POSTGRES, Place
from penstock.blobs.objects.contract import Description, ListedObject, ObjectMissing, tenant_of
from penstock.errors import InvalidInput
from penstock.postgres.pool import Database

_BATCH: Final = 32  # parts that one statement removes


class DatabaseObjects:
    """Objects in the tables of blobs. Each part is a statement of its own; no connection is held in between."""

    url = "postgres"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, key: str, chunks: AsyncIterator[bytes], description: Description) -> None:
        """Store an object that was announced. Raises InvalidInput if this takes more than twelve hours."""
        del description
        number, pending = 0, bytearray()
        async for chunk in chunks:
            pending += chunk
            while len(pending) >= PART_BYTES:
                await self._put(key, number, bytes(pending[:PART_BYTES]))
                del pending[:PART_BYTES]
                number += 1
        if pending:
            await self._put(key, number, bytes(pending))

    async def _put(self, key: str, number: int, data: bytes) -> None:
        async with self._database.acquire() as connection:
            if not await store.put_part(connection, _tenant(key), Place(POSTGRES, key), number, data):
                raise too_slow()

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            number, first = divmod(start, PART_BYTES)
            count = min(PART_BYTES - first, end - start)
            async with self._database.acquire() as connection:
                data = await store.read_part(connection, _tenant(key), key, number, first=first, count=count)
            if data is None or len(data) != count:
                raise ObjectMissing(key)
            yield data
            start += count

    async def remove(self, key: str) -> None:
        """Remove the parts, a few at a time, unless a blob refers to them."""
        while True:
            async with self._database.acquire() as connection:
                if not await store.drop_parts(connection, _tenant(key), Place(POSTGRES, key), limit=_BATCH):
                    return

    async def size(self, key: str) -> int | None:
        async with self._database.acquire() as connection:
            return await store.size_of_parts(connection, _tenant(key), key)

    async def listed(self, *, after: str, limit: int) -> list[ListedObject]:
        """Return nothing: parts and rows are in one database, so neither can be lost without the other."""
        del after, limit
        return []

    async def read_mark(self) -> bytes | None:
        return str(POSTGRES).encode()

    async def write_mark(self, content: bytes) -> None:
        """Do nothing: the database is its own mark."""

    async def signed_url(self, key: str, expires_in: object) -> str | None:
        del key, expires_in
        return None


def too_slow() -> InvalidInput:
    """Return the error of an upload whose object would be removed before it is complete."""
    return InvalidInput.of("body", "took more than twelve hours to arrive")


def _tenant(key: str) -> int:
    tenant = tenant_of(key)
    if tenant is None:
        raise ValueError(f"not the key of an object: {key!r}")
    return tenant
