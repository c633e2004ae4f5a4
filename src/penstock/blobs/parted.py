"""Uploads in parts, which survive broken connections and restarts: each part is stored when it is complete.

A part is an object of its own. Completing an upload joins its parts, in order, into the object of a blob; SHA-256 is
computed on the way. The objects of parts are leftovers all along, due some time after the upload expires, so an upload
that is never completed needs no clean-up of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct
from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import POSTGRES, Blob, Place
from penstock.blobs.measured import Measured
from penstock.blobs.names import filename_of, media_type_of
from penstock.blobs.objects.contract import Description, ObjectMissing
from penstock.blobs.service import BlobService
from penstock.blobs.store import StoredPart
from penstock.errors import (
    AlreadyExists,
    BlobStoreUnavailable,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    TooLarge,
    WrongState,
)
from penstock.postgres.pool import Database

MAX_UPLOADS: Final = 100  # of a tenant, unfinished
MAX_PARTS: Final = 10_000
MAX_PART_BYTES: Final = 64 * 2**20

_PART: Final = Description(media_type="application/octet-stream", disposition="attachment")


class UploadPart(Struct, frozen=True, kw_only=True):
    """A part that is stored."""

    number: int
    size_bytes: int
    sha256: str


class PartedUpload(Struct, frozen=True, kw_only=True):
    """An upload in parts, with the parts that are stored, in order."""

    id: UUID
    media_type: str
    filename: str | None
    created_at: datetime
    expires_at: datetime
    parts: list[UploadPart]


class PartedUploads:
    """The uploads in parts of all tenants."""

    def __init__(self, database: Database, blobs: BlobService) -> None:
        self._database = database
        self._blobs = blobs
        self.max_part_bytes = min(MAX_PART_BYTES, blobs.max_bytes)

    async def begin(self, tenant: int, *, media_type: str | None, filename: str | None) -> PartedUpload:
        """Begin an upload, which must be completed within a day. Raises InvalidInput for a wrong media type."""
        async with self._database.acquire() as connection:
            begun = await store.begin_upload(
                connection, tenant, uuid7(), media_type=media_type_of(media_type), filename=filename_of(filename),
                limit=MAX_UPLOADS,
            )  # fmt: skip
        if begun is None:
            raise WrongState(f"there are {MAX_UPLOADS} unfinished uploads: complete or abort some")
        return PartedUpload(**begun, parts=[])

    async def get(self, tenant: int, upload_id: UUID) -> PartedUpload:
        """Return an upload. Raises NotFound, also if it was completed, aborted or has expired."""
        async with self._database.acquire() as connection:
            found = await store.upload(connection, tenant, upload_id)
            if found is None:
                raise NotFound(f"there is no upload {upload_id}")
            parts = await store.parts_of(connection, tenant, upload_id)
        return PartedUpload(
            **found,
            parts=[UploadPart(number=one.number, size_bytes=one.size_bytes, sha256=one.sha256) for one in parts],
        )

    async def put(self, tenant: int, upload_id: UUID, number: int, chunks: AsyncIterator[bytes]) -> UploadPart:
        """Store a part; it replaces the one with that number, if there is one. If this fails, that one stays.

        Raises NotFound, InvalidInput for an empty part, TooLarge, BlobStoreUnavailable and any exception of ``chunks``.
        """
        async with self._database.acquire() as connection:
            others = await store.bytes_of_others(connection, tenant, upload_id, number)
        if others is None:
            raise NotFound(f"there is no upload {upload_id}")
        left = self._blobs.max_bytes - others
        if left <= 0:
            raise TooLarge(f"the other parts already have the {self._blobs.max_bytes} bytes that a file may have")
        measured = Measured(chunks, min(self.max_part_bytes, left))
        begin = await measured.first(self._blobs.inline_bytes + 1)
        if not begin:
            raise InvalidInput.of("body", "is empty: send the part's bytes")
        inline = len(begin) <= self._blobs.inline_bytes
        place = Place(
            POSTGRES if inline else await self._blobs.stores.current_id(), f"{tenant}/parts/{upload_id}/{uuid7()}"
        )
        await self._blobs.write(tenant, place, measured.all(begin), _PART)
        part = StoredPart(
            number=number, size_bytes=measured.size, sha256=measured.sha256, store_id=place.store_id, key=place.key
        )
        async with self._database.acquire() as connection:
            kept = await store.keep_part(connection, tenant, upload_id, part)
        if not kept:
            await self._blobs.discard(tenant, place)
            raise NotFound(f"there is no upload {upload_id}")
        return UploadPart(number=number, size_bytes=part.size_bytes, sha256=part.sha256)

    async def complete(self, tenant: int, upload_id: UUID, *, sha256: str | None) -> Blob:
        """Join the parts into a blob of the upload's id; if it exists already, return it.

        Raises NotFound; WrongState if parts are missing between others, or there is none; InvalidInput if the bytes do
        not have the SHA-256 ``sha256``; TooLarge; BlobStoreUnavailable.
        """
        try:
            upload = await self.get(tenant, upload_id)
        except NotFound:
            return await self._completed(tenant, upload_id)
        async with self._database.acquire() as connection:
            parts = await store.parts_of(connection, tenant, upload_id)
        _require_all(parts)
        size = sum(part.size_bytes for part in parts)
        if size > self._blobs.max_bytes:
            raise TooLarge(f"the file has more than the {self._blobs.max_bytes} bytes allowed")
        try:
            blob = await self._blobs.put(
                tenant, self._joined(parts), media_type=upload.media_type, filename=upload.filename,
                blob_id=upload_id, expected_sha256=sha256,
            )  # fmt: skip
        except AlreadyExists:  # another request has completed it in the meantime
            blob = await self._blobs.get(tenant, upload_id)
        await self._end(tenant, upload_id)
        return blob

    async def abort(self, tenant: int, upload_id: UUID) -> None:
        """Abort an upload; raises NotFound."""
        await self.get(tenant, upload_id)
        await self._end(tenant, upload_id)

    async def _completed(self, tenant: int, upload_id: UUID) -> Blob:
        try:
            return await self._blobs.get(tenant, upload_id)
        except NotFound:
            raise NotFound(f"there is no upload {upload_id}") from None

    async def _end(self, tenant: int, upload_id: UUID) -> None:
        """Remove an upload and its parts; the housekeeper removes parts that this cannot."""
        async with self._database.acquire() as connection:
            places = await store.end_upload(connection, tenant, upload_id)
        with suppress(BlobStoreUnavailable, DatabaseUnavailable):
            for place in places:
                await self._blobs.clear(tenant, place)

    async def _joined(self, parts: list[StoredPart]) -> AsyncIterator[bytes]:
        for part in parts:
            objects = await self._blobs.stores.holding(part.store_id)
            try:
                async for chunk in objects.read(part.key, 0, part.size_bytes):
                    yield chunk
            except ObjectMissing:
                raise WrongState(f"part {part.number} was replaced while the upload was completed") from None


def _require_all(parts: list[StoredPart]) -> None:
    """Raise WrongState unless the parts are numbered from 1 without a gap."""
    if not parts:
        raise WrongState("no part has arrived yet")
    numbers = {part.number for part in parts}
    missing = next((number for number in range(1, len(parts) + 1) if number not in numbers), None)
    if missing is not None:
        raise WrongState(f"part {missing} is missing: the parts are numbered from 1 without a gap")
