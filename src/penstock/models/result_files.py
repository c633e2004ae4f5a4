"""Keep the files of a model's result in the store of files: its JSON names each as ``blob:ID``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.blobs.names import UNKNOWN, media_type_of
from penstock.blobs.service import BlobService
from penstock.errors import InvalidInput, ModelFailed, TooLarge
from penstock.models.host.calls import CallResult
from penstock.models.replica.data_urls import put
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.models.replica.suffixes import suffix_of
from penstock.models.uploads import SCHEME
from penstock.tenants.principal import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class ForJob:
    """The attempt of a job whose result it is; its files are stored under the job and the epoch."""

    job: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFiles:
    """Stores the files of results in ``blobs``."""

    blobs: BlobService

    async def kept(self, result: CallResult, tenant: TenantId, attempt: ForJob | None = None) -> CallResult:
        """Return a result whose segments are all in memory; those in files have become blobs of the tenant.

        Raises ModelFailed for a file that cannot be a blob, and BlobStoreUnavailable.
        """
        in_files = [one for one in result.segments if isinstance(one.data, FileBytes)]
        if not in_files:
            return result
        if attempt is not None:
            await self.blobs.supersede(tenant, attempt.job, attempt.epoch)
        value: Any = msgspec.json.decode(result.json)
        for number, segment in enumerate(in_files):
            value = put(value, segment.path, await self._stored(segment, number, tenant, attempt))
        in_memory = [one for one in result.segments if not isinstance(one.data, FileBytes)]
        return msgspec.structs.replace(result, json=msgspec.json.encode(value), segments=in_memory)

    async def _stored(self, segment: Segment, number: int, tenant: TenantId, attempt: ForJob | None) -> str:
        assert isinstance(segment.data, FileBytes)  # noqa: S101 - the caller has selected them
        name = f"file{number}{suffix_of(media_type=segment.media_type)}"
        try:
            blob = await self.blobs.put(
                tenant,
                pieces_of(segment.data),
                media_type=_valid(segment.media_type),
                filename=segment.name or name,
                under=None if attempt is None else f"{attempt.job}/{attempt.epoch}/{name}",
            )
        except (TooLarge, InvalidInput) as error:
            raise ModelFailed(f"a file that the model returned cannot be stored: {error.message}") from None
        return f"{SCHEME}{blob.id}"


async def pieces_of(file: FileBytes) -> AsyncIterator[bytes]:
    """Yield the bytes of a file, read in threads. Raises OSError."""
    start = 0
    while data := await asyncio.to_thread(file.piece, start):
        yield data
        start += len(data)


def _valid(media_type: str) -> str:
    try:
        return media_type_of(media_type)
    except InvalidInput:
        return UNKNOWN
