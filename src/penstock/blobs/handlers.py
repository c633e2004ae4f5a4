"""What each endpoint of blobs does: from a request to the service, and back to a response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from penstock.blobs.names import attachment
from penstock.blobs.ranges import UNSATISFIABLE, wanted
from penstock.blobs.service import BlobService
from penstock.errors import InvalidInput
from penstock.web.forms import Part, read_form
from penstock.web.request import Request
from penstock.web.response import ByteStream, Response, json_response

_FORM: Final = "multipart/form-data"
LARGEST_FORM: Final = 64 * 2**20  # bytes: a form stands in memory, a plain body does not
_NEVER_SHOWN: Final = [  # it is somebody's file: no browser may take it for a page of this service
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]


class BlobHandlers:
    """The endpoints, on a service, for the tenant that sends the request."""

    def __init__(self, service: BlobService) -> None:
        self.max_bytes = service.max_bytes
        self._service = service

    async def put(self, request: Request) -> Response:
        """Keep the body, or the one file of a form."""
        named = request.query({"filename": False}).get("filename")
        filename = named[0] if named else None
        tenant, stated = request.principal.tenant, request.header(b"content-type")
        if stated is not None and stated.partition(";")[0].strip().lower() == _FORM:
            request.max_body_bytes = min(request.max_body_bytes, LARGEST_FORM)
            part = _only_file(await read_form(request, stated))
            filename = filename or part.filename
            blob = await self._service.put(tenant, _whole(part.data), media_type=part.media_type, filename=filename)
        else:
            blob = await self._service.put(tenant, request.chunks(), media_type=stated, filename=filename)
        return json_response(blob, 201, [(b"location", f"/api/v1/blobs/{blob.id}".encode())])

    async def read(self, request: Request) -> Response | ByteStream:
        """The bytes, or one range of them."""
        request.query({})
        blob = await self._service.get(request.principal.tenant, request.path_id())
        etag = f'"{blob.sha256}"'
        asked = request.header(b"range") if request.method == "GET" else None
        if request.header(b"if-range") not in {None, etag}:
            asked = None
        span = wanted(asked, blob.size_bytes)
        if span is UNSATISFIABLE:
            return Response(status=416, headers=[(b"content-range", b"bytes */%d" % blob.size_bytes)])
        headers = [
            *_NEVER_SHOWN,
            (b"content-disposition", attachment(blob.filename)),
            (b"accept-ranges", b"bytes"),
            (b"etag", etag.encode()),
        ]
        start, end = (0, blob.size_bytes) if span is None else (span.start, span.stop)
        if span is not None:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, blob.size_bytes)))
        return ByteStream(
            chunks=self._service.read(request.principal.tenant, blob.id, start, end),
            size=end - start,
            status=200 if span is None else 206,
            content_type=blob.media_type.encode(),
            headers=headers,
        )

    async def info(self, request: Request) -> Response:
        """What is known of a blob."""
        request.query({})
        return json_response(await self._service.get(request.principal.tenant, request.path_id()))

    async def delete(self, request: Request) -> Response:
        """Delete a blob."""
        request.query({})
        await self._service.delete(request.principal.tenant, request.path_id())
        return Response(status=204)


def _only_file(parts: list[Part]) -> Part:
    for part in parts:
        if part.filename is None:
            raise InvalidInput.of(part.name[:100], "is no file: a form holds one file and nothing else")
    if len(parts) != 1:
        raise InvalidInput.of("body", f"must hold exactly one file, not {len(parts)}")
    return parts[0]


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
