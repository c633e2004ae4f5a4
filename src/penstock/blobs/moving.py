"""Move blobs from one store to another while the system runs.

A blob is copied, the copy is read back and compared by SHA-256, and one statement makes the blob refer to the copy if
it still refers to the original. So a mover may be killed at any moment and started again, and several may run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import POSTGRES, Place
from penstock.blobs.names import attachment
from penstock.blobs.objects.contract import Description, ObjectMissing
from penstock.blobs.service import BlobService
from penstock.blobs.store import Misplaced
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable
from penstock.postgres.pool import Database

_PAGE: Final = 100  # blobs that one statement reads
_AT_ONCE: Final = 4  # blobs copied concurrently


@dataclass(slots=True)
class Tally:
    """The progress of a move."""

    moved: int = 0
    bytes: int = 0
    gone: int = 0  # deleted, or moved by another process, while they were copied


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmoved:
    """A blob that could not be moved, and the reason."""

    id: UUID
    reason: str


class Mover:
    """Moves every blob to the store that a new blob of its size would go to."""

    def __init__(self, database: Database, blobs: BlobService, *, report: Callable[[Tally], None]) -> None:
        self._database = database
        self._blobs = blobs
        self._report = report
        self.tally = Tally()
        self.unmoved: list[Unmoved] = []

    async def run(self) -> None:
        """Move all but those whose bytes are missing or wrong, which ``unmoved`` lists. Raises BlobStoreUnavailable."""
        store_id = await self._blobs.stores.current_id()
        after = (-1, UUID(int=0))
        while True:
            async with self._database.acquire() as connection:
                page = await store.misplaced(
                    connection, after=after, store_id=store_id, inline_bytes=self._blobs.inline_bytes, limit=_PAGE
                )
            if not page:
                return
            for first in range(0, len(page), _AT_ONCE):
                moves = (self._move(blob, store_id) for blob in page[first : first + _AT_ONCE])
                for error in await asyncio.gather(*moves, return_exceptions=True):
                    if error is not None:
                        raise error
            after = (page[-1].tenant_id, page[-1].id)

    async def _move(self, blob: Misplaced, store_id: UUID) -> None:
        inline = blob.size_bytes <= self._blobs.inline_bytes
        copy = Place(POSTGRES if inline else store_id, f"{blob.tenant_id}/uploads/{uuid7()}")
        description = Description(media_type=blob.media_type, disposition=attachment(blob.filename).decode())
        try:
            await self._blobs.write(blob.tenant_id, copy, self._checked(blob, blob.place), description)
            async for _ in self._checked(blob, copy):
                pass
        except (_Wrong, ObjectMissing) as error:
            await self._blobs.discard(blob.tenant_id, copy)
            wrong = "its bytes do not have its SHA-256" if isinstance(error, _Wrong) else "its bytes are missing"
            self.unmoved.append(Unmoved(id=blob.id, reason=wrong))
            return
        async with self._database.acquire() as connection:
            moved = await store.move(connection, blob.tenant_id, blob.id, blob.place, to=copy)
        if moved:
            self.tally.moved += 1
            self.tally.bytes += blob.size_bytes
            with suppress(BlobStoreUnavailable, DatabaseUnavailable):  # then the housekeeper removes it
                await self._blobs.clear(blob.tenant_id, blob.place)
        else:
            self.tally.gone += 1
            await self._blobs.discard(blob.tenant_id, copy)
        self._report(self.tally)

    async def _checked(self, blob: Misplaced, place: Place) -> AsyncIterator[bytes]:
        """Yield the bytes at a place; raise _Wrong at their end if they are not those of the blob."""
        objects = await self._blobs.stores.holding(place.store_id)
        digest = hashlib.sha256()
        async for chunk in objects.read(place.key, 0, blob.size_bytes):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != blob.sha256:
            raise _Wrong


class _Wrong(Exception):
    """The bytes do not have the SHA-256 of the blob."""
