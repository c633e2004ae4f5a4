"""Keep the larger media of a job's result as files: the result names each as ``blob:ID``.

An object's key holds the job and the epoch of its attempt, so an attempt that has lost its lease overwrites nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.blobs.service import BlobService
from penstock.errors import PenstockError
from penstock.failures import failure_of
from penstock.jobs.work import ClaimedJob
from penstock.models.replica.data_urls import Path, put
from penstock.models.replica.suffixes import suffix_of
from penstock.models.uploads import SCHEME
from penstock.work.context import JobContext

_URL: Final = re.compile(r"data:([\w.+-]{1,100}/[\w.+-]{1,100})((?:;[\w.+-]{1,50}=[\w.+-]{1,50}){0,4});base64,")
_PIECE: Final = 2**20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMedia:
    """Stores media of more than ``larger_than`` bytes in ``blobs``."""

    blobs: BlobService
    larger_than: int

    async def keep(self, result: bytes, job: ClaimedJob, context: JobContext) -> bytes:
        """Return a result whose larger ``data:`` URLs are stored as blobs. Raises CallFailed."""
        if len(result) <= self.larger_than or b"data:" not in result:
            return result
        value: Any = msgspec.json.decode(result)
        found = [one for one in _media(value, (), 4 * self.larger_than // 3) if len(one.data) > self.larger_than]
        if not found:
            return result
        try:
            await self.blobs.supersede(context.tenant, str(job.id), job.epoch)
            for number, media in enumerate(found):
                name = f"{number}{suffix_of(media_type=media.media_type)}"
                blob = await self.blobs.put(
                    context.tenant,
                    _pieces(media.data),
                    media_type=media.media_type,
                    filename=name,
                    under=f"{job.id}/{job.epoch}/{name}",
                )
                value = put(value, media.path, f"{SCHEME}{blob.id}")
        except PenstockError as error:
            raise failure_of(error) from error
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
