"""The HTTP face of blobs: every endpoint under ``/api/v1/blobs``, declared once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from penstock.blobs.blob import Blob
from penstock.blobs.handlers import LARGEST_FORM, BlobHandlers
from penstock.errors import DatabaseUnavailable, InvalidInput, MalformedBody, NotFound, TooLarge, Unsupported
from penstock.web.route import Parameter, PathParameter, ResponseSpec, Route

_NAMED = (InvalidInput, NotFound, DatabaseUnavailable)
_EXAMPLE: Any = msgspec.to_builtins(
    Blob(
        id=UUID("01990000-0000-7000-8000-000000000007"),
        media_type="audio/wav",
        filename="meeting.wav",
        size_bytes=1_920_044,
        sha256="6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        created_at=datetime(2026, 1, 30, 9, tzinfo=UTC),
        expires_at=datetime(2026, 3, 1, 9, tzinfo=UTC),
    )
)
_ID = PathParameter(name="id", type=UUID, description="the blob's id")


def routes(blobs: BlobHandlers) -> list[Route]:
    """Every route of blobs."""
    return [
        Route(
            method="POST",
            path="/api/v1/blobs",
            handler=blobs.put,
            name="putBlob",
            tag="Blobs",
            summary="Upload a file",
            description="The body is the file's bytes, its media type in `Content-Type`; or `multipart/form-data` with "
            f"one file. At most {blobs.max_bytes} bytes, or {min(LARGEST_FORM, blobs.max_bytes)} as a form. It is kept "
            "until `expires_at` or until it is deleted.",
            uploads=True,
            parameters=(
                Parameter(
                    name="filename",
                    type=str,
                    description="the file's name; folders and letters that control anything are dropped from it",
                ),
            ),
            responses={201: ResponseSpec(description="What is known of it", type=Blob, example=_EXAMPLE)},
            errors=(InvalidInput, MalformedBody, TooLarge, Unsupported, DatabaseUnavailable),
            max_body_bytes=blobs.max_bytes,
        ),
        Route(
            method="GET",
            path="/api/v1/blobs/{id}",
            path_parameters=(_ID,),
            handler=blobs.read,
            name="readBlob",
            tag="Blobs",
            summary="A file's bytes",
            description="With its media type, as an attachment; one range of bytes may be asked for.",
            parameters=(
                Parameter(name="Range", type=str, description="such as `bytes=0-499`; one range", place="header"),
            ),
            responses={
                200: ResponseSpec(description="The bytes", media_type="*/*"),
                206: ResponseSpec(description="The range", media_type="*/*"),
                416: ResponseSpec(description="The range lies behind the file's end"),
            },
            errors=_NAMED,
        ),
        Route(
            method="GET",
            path="/api/v1/blobs/{id}/info",
            path_parameters=(_ID,),
            handler=blobs.info,
            name="getBlob",
            tag="Blobs",
            summary="What is known of a file",
            responses={200: ResponseSpec(description="Its type, name, size and times", type=Blob, example=_EXAMPLE)},
            errors=_NAMED,
        ),
        Route(
            method="DELETE",
            path="/api/v1/blobs/{id}",
            path_parameters=(_ID,),
            handler=blobs.delete,
            name="deleteBlob",
            tag="Blobs",
            summary="Delete a file",
            responses={204: ResponseSpec(description="It is gone")},
            errors=_NAMED,
        ),
    ]
