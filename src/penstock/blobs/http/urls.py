"""URLs from which anyone may read a file for a limited time: making one needs a key, using it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from penstock.access.instance import Instance
from penstock.blobs.http.sending import RANGE, RESPONSES, send
from penstock.blobs.links import BlobLinks, SignedUrl
from penstock.blobs.service import BlobService
from penstock.blobs.signing import verify
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable, InvalidInput, NotFound
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import ByteStream, Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

MAX_SECONDS: Final = 7 * 24 * 3600  # what S3 allows
_DEFAULT_SECONDS: Final = 3600
_INVALID: Final = "this URL is not valid, or has expired"


_EXAMPLE: Any = msgspec.to_builtins(
    SignedUrl(url="/api/v1/blobs/signed/AAAAAQGZ…", expires_at=datetime(2026, 1, 30, 10, tzinfo=UTC))
)


class SignedUrlRoutes:
    """Makes signed URLs and serves those that lead here."""

    def __init__(self, service: BlobService, instance: Instance, links: BlobLinks) -> None:
        self._service = service
        self._instance = instance
        self._links = links

    @route(
        "GET",
        "/api/v1/blobs/{id}/url",
        path_parameters=(PathParameter(name="id", type=UUID, description="the blob's id"),),
        name="signBlobUrl",
        tag="Blobs",
        scope=scopes.FILES,
        summary="Make a URL from which anyone may download a file",
        description="The URL needs no key. It is valid for `ttl`, but not longer than the file exists or the secret of "
        "the installation is valid. The URL of a file in a bucket may lead to the bucket.",
        parameters=(
            Parameter(
                name="ttl", type=int, description=f"seconds, from 1 to {MAX_SECONDS}; {_DEFAULT_SECONDS} unless given"
            ),
        ),
        responses={200: ResponseSpec(description="The URL", type=SignedUrl, example=_EXAMPLE)},
        errors=(InvalidInput, NotFound, BlobStoreUnavailable, DatabaseUnavailable),
    )
    async def make(self, request: Request) -> Response:
        """Return a URL of the store or, where it has none, a signed one of this gateway."""
        ttl = _ttl(request.query({"ttl": False}).get("ttl", [str(_DEFAULT_SECONDS)])[0])
        made = await self._links.make(request.principal.tenant, request.path_id(), ttl)
        return json_response(made, headers=[(b"cache-control", b"no-store")])

    @route(
        "GET",
        "/api/v1/blobs/signed/{token}",
        path_parameters=(PathParameter(name="token", description="of a signed URL"),),
        name="readSignedBlob",
        tag="Blobs",
        open=True,
        summary="Download a file by its signed URL",
        description="The response is that of `/api/v1/blobs/{id}`.",
        parameters=(RANGE,),
        responses=RESPONSES,
        errors=(NotFound, BlobStoreUnavailable, DatabaseUnavailable),
    )
    async def read(self, request: Request) -> Response | ByteStream:
        """Send the file that a valid token names."""
        request.query({})
        await self._instance.secret_now()  # compares this host's secret with the database, once
        grant = verify(self._instance.source.get(), request.path("token"))
        if grant is None:
            raise NotFound(_INVALID)
        try:
            found = await self._service.find(grant.tenant, grant.blob_id)
        except NotFound:
            raise NotFound(_INVALID) from None
        if grant.expires_at <= found.read_at:
            raise NotFound(_INVALID)
        return send(self._service, grant.tenant, found.blob, request)


def _ttl(text: str) -> timedelta:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_SECONDS):
        raise InvalidInput.of("ttl", f"must be a whole number of seconds from 1 to {MAX_SECONDS}")
    return timedelta(seconds=int(text))
