"""Make a model's input from JSON: check it, and add the uploads that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from penstock.blobs.blob import Blob
from penstock.blobs.uploads import TenantUploads
from penstock.errors import InvalidInput, NotFound, dotted
from penstock.models import media_types
from penstock.models.host.call_folders import CallFolder, CallFolders
from penstock.models.host.deployment import Deployment
from penstock.models.replica.data_urls import Path, put
from penstock.models.replica.file_bytes import INLINE_BYTES, FileBytes
from penstock.models.replica.runtime import Segment
from penstock.web.reading import decode

_any = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Input:
    """An input that its model's schema allows: JSON, with null at the places of segments."""

    json: bytes
    segments: Sequence[Segment] = ()


async def from_json(body: bytes, deployment: Deployment, uploads: TenantUploads | None = None) -> Input:
    """Return a JSON body as an input, with the uploads that it names; without ``uploads`` it may name none.

    Raises MalformedBody, InvalidInput and, for uploads, Overloaded, ModelUnavailable and BlobStoreUnavailable.
    """
    value = decode(body, _any)
    segments: list[Segment] = []
    may_name_uploads = b"blob:" in body or b"\\u" in body  # the name of an upload may be written with escapes
    if uploads is not None and may_name_uploads:
        segments = await _uploaded(value, body, deployment, uploads)
        for segment in segments:
            put(value, segment.path, placeholder(segment))
    deployment.checker.check(value, json=body)
    if not segments:
        return Input(body)
    for segment in segments:
        put(value, segment.path, None)
    return Input(msgspec.json.encode(value), segments)


async def _uploaded(value: Any, body: bytes, deployment: Deployment, uploads: TenantUploads) -> list[Segment]:
    """Return the uploads that an input refers to: small ones in memory, larger ones as files of the call."""
    found = list(deployment.media.uploads_in(value))
    if not found:
        return []
    deployment.checker_of_jobs.check(value, json=body)  # before anything is read
    reading = _Reading(uploads, deployment.folders)
    return [await reading.segment(path, upload_id) for path, upload_id in found]


class _Reading:
    """Reads the uploads of one input, each once."""

    def __init__(self, uploads: TenantUploads, folders: CallFolders) -> None:
        self._uploads = uploads
        self._folders = folders
        self._folder: CallFolder | None = None
        self._in_memory = self._in_files = 0  # bytes
        self._read: dict[UUID, tuple[Blob, bytes | FileBytes]] = {}

    async def segment(self, path: Path, upload_id: UUID) -> Segment:
        """Return an upload as the media at ``path``. Raises InvalidInput, Overloaded, ModelUnavailable."""
        try:
            if upload_id not in self._read:
                blob = await self._uploads.find(upload_id)
                self._read[upload_id] = blob, await self._bytes(path, blob)
            elif self._read[upload_id][0].size_bytes <= INLINE_BYTES:
                self._take_memory(path, self._read[upload_id][0].size_bytes)  # it is sent again
        except NotFound as error:
            raise InvalidInput.of(dotted(path), error.message) from None
        blob, data = self._read[upload_id]
        begin = data.piece(0) if isinstance(data, FileBytes) else data
        return Segment(data, media_types.resolved(blob.media_type, begin, blob.filename), path, blob.filename)

    async def _bytes(self, path: Path, blob: Blob) -> bytes | FileBytes:
        if blob.size_bytes <= INLINE_BYTES:
            self._take_memory(path, blob.size_bytes)
            return b"".join([piece async for piece in self._uploads.read(blob.id)])
        self._in_files += blob.size_bytes
        if self._in_files > self._folders.max_bytes:
            raise InvalidInput.of(dotted(path), f"with this one the uploads exceed {self._folders.max_bytes} bytes")
        if self._folder is None:
            self._folder = await self._folders.folder()
        return await self._folder.store(
            self._uploads.read(blob.id), blob.size_bytes, name=blob.filename, identity=blob.sha256.encode()
        )

    def _take_memory(self, path: Path, size: int) -> None:
        self._in_memory += size
        if self._in_memory > self._uploads.max_bytes:
            raise InvalidInput.of(
                dotted(path), f"with this one the small uploads exceed {self._uploads.max_bytes} bytes"
            )


def properties_of(deployment: Deployment) -> Mapping[str, Any]:
    """Return the fields of a model's input, with their schemas."""
    properties = deployment.schema.input.get("properties", {}) if deployment.schema is not None else {}
    return properties if isinstance(properties, Mapping) else {}


def placeholder(segment: Segment) -> str:
    """Return the value that stands for separately sent media when the schema is checked."""
    return f"data:{segment.media_type},"
