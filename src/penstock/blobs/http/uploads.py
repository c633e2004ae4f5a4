"""Uploads in parts, which a client can resume after a broken connection, under ``/api/v1/uploads``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from penstock.blobs.blob import Blob
from penstock.blobs.parted import MAX_PARTS, PartedUpload, PartedUploads, UploadPart
from penstock.errors import (
    BlobStoreUnavailable,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TooLarge,
    WrongState,
)
from penstock.quotas.admission import Quotas
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route

_TAG: Final = "Uploads in parts"
_ID: Final = PathParameter(name="id", type=UUID, description="the upload's id, which becomes the file's")
_SHA256: Final = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
_NAMED: Final = (InvalidInput, NotFound, BlobStoreUnavailable, DatabaseUnavailable)


class UploadCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to begin an upload in parts."""

    media_type: str | None = None
    filename: str | None = None


class UploadCompletion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to complete an upload. With ``sha256``, the file must have that SHA-256."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None


_creation: Final = msgspec.json.Decoder(UploadCreation)
_completion: Final = msgspec.json.Decoder(UploadCompletion)
_PART: Final = UploadPart(number=1, size_bytes=16_777_216, sha256=_SHA256)
_EXAMPLE: Final[Any] = msgspec.to_builtins(
    PartedUpload(
        id=UUID("01990000-0000-7000-8000-000000000008"),
        media_type="video/mp4",
        filename="talk.mp4",
        created_at=datetime(2026, 1, 30, 9, tzinfo=UTC),
        expires_at=datetime(2026, 1, 31, 9, tzinfo=UTC),
        parts=[_PART],
    )
)
_FILE: Final[Any] = msgspec.to_builtins(
    Blob(
        id=UUID("01990000-0000-7000-8000-000000000008"),
        media_type="video/mp4",
        filename="talk.mp4",
        size_bytes=16_777_216,
        sha256=_SHA256,
        created_at=datetime(2026, 1, 30, 9, tzinfo=UTC),
        expires_at=datetime(2026, 3, 1, 9, tzinfo=UTC),
    )
)


class UploadRoutes:
    """Begins, continues and completes uploads in parts of the tenant that sends the request."""

    def __init__(self, uploads: PartedUploads, quotas: Quotas) -> None:
        self.max_part_bytes = uploads.max_part_bytes
        self._uploads = uploads
        self._quotas = quotas

    @route(
        "POST",
        "/api/v1/uploads",
        name="beginUpload",
        tag=_TAG,
        scope=scopes.FILES,
        summary="Begin an upload in parts",
        description=lambda uploads: (
            f"Send the parts, numbered from 1, in any order, of at most {uploads.max_part_bytes} bytes each, and "
            "complete the upload within a day."
        ),
        request=UploadCreation,
        request_example={"media_type": "video/mp4", "filename": "talk.mp4"},
        responses={201: ResponseSpec(description="The upload", type=PartedUpload, example=_EXAMPLE | {"parts": []})},
        errors=(*BODY_ERRORS, WrongState, DatabaseUnavailable),
    )
    async def begin(self, request: Request) -> Response:
        """Begin an upload."""
        request.query({})
        wanted = await request.read(_creation)
        upload = await self._uploads.begin(
            request.principal.tenant, media_type=wanted.media_type, filename=wanted.filename
        )
        return json_response(upload, 201, [(b"location", f"/api/v1/uploads/{upload.id}".encode())])

    @route(
        "PUT",
        "/api/v1/uploads/{id}/parts/{number}",
        path_parameters=(_ID, PathParameter(name="number", description=f"from 1 to {MAX_PARTS}")),
        name="putUploadPart",
        tag=_TAG,
        scope=scopes.FILES,
        summary="Send one part",
        description="The body is the part's bytes. A part that is sent again replaces the earlier one with its number.",
        uploads=True,
        responses={200: ResponseSpec(description="The part", type=UploadPart, example=msgspec.to_builtins(_PART))},
        errors=(TooLarge, QuotaExceeded, *_NAMED),
        max_body_bytes=lambda uploads: uploads.max_part_bytes,
    )
    async def put(self, request: Request) -> Response:
        """Store a part, if the quota of stored bytes has room for it."""
        request.query({})
        number, stated = _number(request.path("number")), request.header(b"content-length")
        async with self._quotas.storing(request.principal, None if stated is None else int(stated)) as admission:
            part = await self._uploads.put(request.principal.tenant, request.path_id(), number, request.chunks())
            if admission is not None:
                admission.keep(part.size_bytes)
        return json_response(part)

    @route(
        "GET",
        "/api/v1/uploads/{id}",
        path_parameters=(_ID,),
        name="getUpload",
        tag=_TAG,
        scope=scopes.FILES,
        summary="List the parts that have arrived",
        responses={200: ResponseSpec(description="The upload", type=PartedUpload, example=_EXAMPLE)},
        errors=_NAMED,
    )
    async def read(self, request: Request) -> Response:
        """Return an upload with its parts."""
        request.query({})
        return json_response(await self._uploads.get(request.principal.tenant, request.path_id()))

    @route(
        "POST",
        "/api/v1/uploads/{id}/complete",
        path_parameters=(_ID,),
        name="completeUpload",
        tag=_TAG,
        scope=scopes.FILES,
        summary="Join the parts into a file",
        description="The file has the upload's id. A request that is repeated after the upload was completed returns "
        "the file again.",
        request=UploadCompletion,
        request_example={"sha256": _SHA256},
        responses={201: ResponseSpec(description="The file's description", type=Blob, example=_FILE)},
        errors=(*BODY_ERRORS, WrongState, *_NAMED),
    )
    async def complete(self, request: Request) -> Response:
        """Complete an upload. The quota of stored bytes has admitted its parts."""
        request.query({})
        wanted = await request.read(_completion)
        tenant, upload_id = request.principal.tenant, request.path_id()
        blob = await self._uploads.complete(tenant, upload_id, sha256=wanted.sha256)
        return json_response(blob, 201, [(b"location", f"/api/v1/blobs/{blob.id}".encode())])

    @route(
        "DELETE",
        "/api/v1/uploads/{id}",
        path_parameters=(_ID,),
        name="abortUpload",
        tag=_TAG,
        scope=scopes.FILES,
        summary="Abort an upload in parts",
        responses={204: ResponseSpec(description="The upload and its parts are removed")},
        errors=_NAMED,
    )
    async def abort(self, request: Request) -> Response:
        """Abort an upload."""
        request.query({})
        await self._uploads.abort(request.principal.tenant, request.path_id())
        return Response(status=204)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_PARTS):
        raise InvalidInput.of("number", f"must be a whole number from 1 to {MAX_PARTS}")
    return int(text)
