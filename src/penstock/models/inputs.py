"""Make a model's input from JSON: check it, and add the uploads that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from penstock.blobs.uploads import TenantUploads, Upload
from penstock.errors import InvalidInput, NotFound, TooLarge, dotted
from penstock.models import media_types
from penstock.models.host.deployment import Deployment
from penstock.models.replica.data_urls import put
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

    Raises MalformedBody and InvalidInput.
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
    """Return the uploads that an input refers to, each read once, within the size limit of a call."""
    found = list(deployment.media.uploads_in(value))
    if not found:
        return []
    deployment.checker_of_jobs.check(value, json=body)  # before anything is read
    left = uploads.max_bytes
    read: dict[UUID, Upload] = {}
    segments: list[Segment] = []
    for path, upload_id in found:
        try:
            upload = read[upload_id] = read.get(upload_id) or await uploads.read(upload_id, max_bytes=left)
        except (NotFound, TooLarge) as error:
            raise InvalidInput.of(dotted(path), error.message) from None
        left -= len(upload.data)  # also for one that occurs again: it is sent again
        if left < 0:
            raise InvalidInput.of(dotted(path), f"with this one the uploads exceed {uploads.max_bytes} bytes")
        kind = media_types.resolved(upload.media_type, upload.data, upload.name)
        segments.append(Segment(upload.data, kind, path, upload.name))
    return segments


def properties_of(deployment: Deployment) -> Mapping[str, Any]:
    """Return the fields of a model's input, with their schemas."""
    properties = deployment.schema.input.get("properties", {}) if deployment.schema is not None else {}
    return properties if isinstance(properties, Mapping) else {}


def placeholder(segment: Segment) -> str:
    """Return the value that stands for separately sent media when the schema is checked."""
    return f"data:{segment.media_type},"
