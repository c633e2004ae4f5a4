"""The HTTP endpoints of blobs, under ``/api/v1/blobs``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from penstock.blobs.blob import Blob
from penstock.blobs.http.sending import RANGE, RESPONSES, send
from penstock.blobs.service import BlobService
from penstock.errors import (
    BlobStoreUnavailable,
    DatabaseUnavailable,
    InvalidInput,
    MalformedBody,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unsupported,
)
from penstock.quotas.admission import Quotas
from penstock.tenants import scopes
from penstock.web.forms import open_file
from penstock.web.request import Request
from penstock.web.response import ByteStream, Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

_FORM: Final = "multipart/form-data"
_FORM_BYTES: Final = 16 * 2**10  # bytes of a form around its file

_NAMED = (InvalidInput, NotFound, BlobStoreUnavailable, DatabaseUnavailable)
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


def _upload_description(blobs: BlobRoutes) -> str:
    return (
        "The body is the file's bytes, its media type in `Content-Type`; or `multipart/form-data` with "
        f"one file. At most {blobs.max_bytes} bytes. It is kept until `expires_at` or until it is deleted."
    )


class BlobRoutes:
    """Uploads, reads and deletes the files of the tenant that sends the request."""

    def __init__(self, service: BlobService, quotas: Quotas) -> None:
        self.max_bytes = service.max_bytes
        self._service = service
        self._quotas = quotas

    @route(
        "POST",
        "/api/v1/blobs",
        name="putBlob",
        tag="Blobs",
        scope=scopes.FILES,
        summary="Upload a file",
        description=_upload_description,
        uploads=True,
        parameters=(
            Parameter(
                name="filename",
                type=str,
                description="the file's name; folders and control characters are removed from it",
            ),
        ),
        responses={201: ResponseSpec(description="The file's description", type=Blob, example=_EXAMPLE)},
        errors=(
            InvalidInput,
            MalformedBody,
            TooLarge,
            Unsupported,
            QuotaExceeded,
            BlobStoreUnavailable,
            DatabaseUnavailable,
        ),
        max_body_bytes=lambda blobs: blobs.max_bytes,
    )
    async def put(self, request: Request) -> Response:
        """Store the body, or the one file of a form, within the quota of stored bytes."""
        stated = request.header(b"content-length")
        async with self._quotas.storing(request.principal, None if stated is None else int(stated)) as admission:
            blob = await self._put(request)
            if admission is not None:
                admission.keep(blob.size_bytes)
        return json_response(blob, 201, [(b"location", f"/api/v1/blobs/{blob.id}".encode())])

    async def _put(self, request: Request) -> Blob:
        named = request.query({"filename": False}).get("filename")
        filename = named[0] if named else None
        tenant, stated = request.principal.tenant, request.header(b"content-type")
        if stated is not None and stated.partition(";")[0].strip().lower() == _FORM:
            request.max_body_bytes += _FORM_BYTES
            file = await open_file(request, stated)
            filename = filename or file.filename
            return await self._service.put(tenant, file.chunks, media_type=file.media_type, filename=filename)
        return await self._service.put(tenant, request.chunks(), media_type=stated, filename=filename)

    @route(
        "GET",
        "/api/v1/blobs/{id}",
        path_parameters=(_ID,),
        name="readBlob",
        tag="Blobs",
        scope=scopes.FILES,
        summary="Download a file",
        description="The bytes come with their media type, as an attachment. One range of bytes may be requested.",
        parameters=(RANGE,),
        responses=RESPONSES,
        errors=_NAMED,
    )
    async def read(self, request: Request) -> Response | ByteStream:
        """Send the bytes, or one range of them."""
        request.query({})
        blob = await self._service.get(request.principal.tenant, request.path_id())
        return send(self._service, request.principal.tenant, blob, request)

    @route(
        "GET",
        "/api/v1/blobs/{id}/info",
        path_parameters=(_ID,),
        name="getBlob",
        tag="Blobs",
        scope=scopes.FILES,
        summary="Describe a file",
        responses={200: ResponseSpec(description="Its type, name, size and times", type=Blob, example=_EXAMPLE)},
        errors=_NAMED,
    )
    async def info(self, request: Request) -> Response:
        """Describe a blob."""
        request.query({})
        return json_response(await self._service.get(request.principal.tenant, request.path_id()))

    @route(
        "DELETE",
        "/api/v1/blobs/{id}",
        path_parameters=(_ID,),
        name="deleteBlob",
        tag="Blobs",
        scope=scopes.FILES,
        summary="Delete a file",
        responses={204: ResponseSpec(description="The file is deleted")},
        errors=_NAMED,
    )
    async def delete(self, request: Request) -> Response:
        """Delete a blob."""
        request.query({})
        await self._service.delete(request.principal.tenant, request.path_id())
        return Response(status=204)
