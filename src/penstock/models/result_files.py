"""Keep the files and the larger media of a model's result in the store of files: its JSON names each as ``blob:ID``.

The object's key holds the job and the epoch of its attempt, so an attempt that has lost its lease overwrites nothing.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.blobs.names import UNKNOWN, media_type_of
from penstock.blobs.service import BlobService
from penstock.errors import InvalidInput, ModelFailed, TooLarge
from penstock.models.host.calls import CallResult
from penstock.models.replica.data_urls import Path, put
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.models.replica.suffixes import suffix_of
from penstock.models.uploads import SCHEME
from penstock.tenants.principal import TenantId

_URL: Final = re.compile(r"data:([\w.+-]{1,100}/[\w.+-]{1,100})((?:;[\w.+-]{1,50}=[\w.+-]{1,50}){0,4});base64,")
_PIECE: Final = 2**20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ForJob:
    """The attempt of a job whose result it is; its files are stored under the job and the epoch."""

    job: str
    epoch: int

    def key(self, name: str) -> str:
        """Return the key of one of its files."""
        return f"{self.job}/{self.epoch}/{name}"


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
                under=None if attempt is None else attempt.key(name),
            )
        except (TooLarge, InvalidInput) as error:
            raise ModelFailed(f"a file that the model returned cannot be stored: {error.message}") from None
        return f"{SCHEME}{blob.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMedia:
    """Stores media of more than ``larger_than`` bytes in ``blobs``."""

    blobs: BlobService
    larger_than: int

    async def kept(self, result: bytes, tenant: TenantId, attempt: ForJob) -> bytes:
        """Return a result whose larger ``data:`` URLs are stored as blobs of the tenant.

        Raises TooLarge, InvalidInput and BlobStoreUnavailable.
        """
        if len(result) <= self.larger_than or b"data:" not in result:
            return result
        value: Any = msgspec.json.decode(result)
        found = [one for one in _media(value, (), 4 * self.larger_than // 3) if len(one.data) > self.larger_than]
        if not found:
            return result
        await self.blobs.supersede(tenant, attempt.job, attempt.epoch)
        for number, media in enumerate(found):
            name = f"{number}{suffix_of(media_type=media.media_type)}"
            blob = await self.blobs.put(
                tenant,
                _pieces(media.data),
                media_type=media.media_type,
                filename=name,
                under=attempt.key(name),
            )
            value = put(value, media.path, f"{SCHEME}{blob.id}")
        return msgspec.json.encode(value)


@dataclass(frozen=True, slots=True)
class _Media:
    path: Path
    media_type: str
    data: bytes


def _media(value: Any, path: Path, least: int) -> Iterator[_Media]:
    """Yield the media of ``data:`` URLs of at least ``least`` characters, at any depth."""
    if isinstance(value, str):
        head = _URL.match(value) if len(value) >= least else None
        if head is not None:
            try:
                data = binascii.a2b_base64(value[head.end() :], strict_mode=True)
            except ValueError:  # a text that only begins like one
                return
            yield _Media(path, head[1] + head[2], data)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _media(inner, (*path, name), least)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _media(inner, (*path, index), least)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


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
