"""Objects in a bucket at S3 or a server of its protocol, at Google Cloud Storage, or in an Azure container.

Memory is bounded: a write holds ``_WRITERS`` parts in flight and one that fills, a read one range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from penstock.blobs.objects.contract import MARK, Description, ListedObject, ObjectMissing, check_key
from penstock.blobs.objects.feed import feed
from penstock.errors import BlobStoreUnavailable
from penstock.telemetry import logs

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import AzureStore, GCSStore, S3Store

log = logs.get(__name__)

MAX_OBJECT: Final = 48 * 2**30  # bytes; S3 allows 10,000 parts

_PART: Final = 5 * 2**20  # bytes of a part of a multipart upload: the least that S3 allows
_WRITERS: Final = 2  # parts in flight of one write
_RANGE: Final = 4 * 2**20  # bytes of one request of a read
_PIECE: Final = 512 * 1024  # bytes that a read yields at a time
_MAX_REASON: Final = 300  # characters of an error that are logged


class BucketObjects:
    """Objects below a prefix of a bucket."""

    def __init__(self, bucket: S3Store | GCSStore | AzureStore, url: str) -> None:
        self._bucket = bucket
        self.url = url

    async def write(self, key: str, chunks: AsyncIterator[bytes], description: Description) -> None:
        """Store an object. A failed multipart upload is aborted; that of a killed process is left to the bucket."""
        attributes: Attributes = {
            "Content-Type": description.media_type,
            "Content-Disposition": description.disposition,
        }
        begin = bytearray()
        async for chunk in chunks:
            begin += chunk
            if len(begin) > _PART:
                break
        with self._errors():
            if len(begin) <= _PART:
                await obstore.put_async(self._bucket, check_key(key), bytes(begin), attributes=attributes)
                return
            await feed(
                _continued(begin, chunks),
                lambda pieces: obstore.put_async(
                    self._bucket,
                    check_key(key),
                    pieces,
                    attributes=attributes,
                    chunk_size=_PART,
                    max_concurrency=_WRITERS,
                ),
            )

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            stop = min(start + _RANGE, end)
            with self._errors():
                data = memoryview(await obstore.get_range_async(self._bucket, check_key(key), start=start, end=stop))
            if len(data) != stop - start:
                raise ObjectMissing(key)
            for first in range(0, len(data), _PIECE):
                yield bytes(data[first : first + _PIECE])
            start = stop

    async def remove(self, key: str) -> None:
        with self._errors():
            try:
                await obstore.delete_async(self._bucket, check_key(key))
            except FileNotFoundError:  # S3 does not report this; other servers do
                return

    async def size(self, key: str) -> int | None:
        try:
            with self._errors():
                return (await obstore.head_async(self._bucket, check_key(key)))["size"]
        except ObjectMissing:
            return None

    async def listed(self, *, after: str, limit: int) -> list[ListedObject]:
        found: list[ListedObject] = []
        with self._errors():
            async for page in obstore.list(self._bucket, offset=after or None, chunk_size=limit):
                found += [
                    ListedObject(key=one["path"], size=one["size"], modified_at=one["last_modified"])
                    for one in page
                    if one["path"] != MARK and one["path"] > after
                ]
                if len(found) >= limit:
                    break
        return sorted(found, key=lambda one: one.key)[:limit]

    async def read_mark(self) -> bytes | None:
        try:
            with self._errors():
                return bytes(await (await obstore.get_async(self._bucket, MARK)).bytes_async())
        except ObjectMissing:
            return None

    async def write_mark(self, content: bytes) -> None:
        with self._errors():
            try:
                await obstore.put_async(self._bucket, MARK, content, mode="create")
            except AlreadyExistsError:
                return

    async def signed_url(self, key: str, expires_in: timedelta) -> str | None:
        with self._errors():
            return await obstore.sign_async(self._bucket, "GET", check_key(key), expires_in)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of the bucket to our own, which contain nothing of the server's response."""
        try:
            yield
        except FileNotFoundError:
            raise ObjectMissing from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            self._log(error)
            raise BlobStoreUnavailable(f"the store of files, {self.url}, refuses the credentials") from None
        except BaseError as error:
            self._log(error)
            raise BlobStoreUnavailable(f"the store of files, {self.url}, does not respond as expected") from None

    def _log(self, error: Exception) -> None:
        log.warning("blob_store_failed", store=self.url, reason=str(error).partition("\n")[0][:_MAX_REASON])


async def _continued(begin: bytearray, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield bytes(begin)
    begin.clear()
    async for chunk in chunks:
        yield chunk
