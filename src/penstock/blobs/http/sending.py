"""Send a blob, or one range of it, in response to a request."""

from __future__ import annotations

from typing import Final

from penstock.blobs.blob import Blob
from penstock.blobs.names import attachment
from penstock.blobs.ranges import UNSATISFIABLE, wanted
from penstock.blobs.service import BlobService
from penstock.web.request import Request
from penstock.web.response import ByteStream, Response
from penstock.web.route import Parameter, ResponseSpec

RANGE: Final = Parameter(name="Range", type=str, description="a single range, such as `bytes=0-499`", place="header")
RESPONSES: Final = {
    200: ResponseSpec(description="The bytes", media_type="*/*"),
    206: ResponseSpec(description="The range", media_type="*/*"),
    416: ResponseSpec(description="The range lies beyond the end of the file"),
}

_AS_A_FILE: Final = [  # so that no browser shows a user's file as a page of this service
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]


def send(service: BlobService, tenant: int, blob: Blob, request: Request) -> Response | ByteStream:
    """Return the response with the bytes, or the range of them that the request selects."""
    etag = f'"{blob.sha256}"'
    range_header = request.header(b"range") if request.method == "GET" else None
    if request.header(b"if-range") not in {None, etag}:
        range_header = None
    span = wanted(range_header, blob.size_bytes)
    if span is UNSATISFIABLE:
        return Response(status=416, headers=[(b"content-range", b"bytes */%d" % blob.size_bytes)])
    headers = [
        *_AS_A_FILE,
        (b"content-disposition", attachment(blob.filename)),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag.encode()),
    ]
    start, end = (0, blob.size_bytes) if span is None else (span.start, span.stop)
    if span is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, blob.size_bytes)))
    return ByteStream(
        chunks=service.read(tenant, blob.id, start, end),
        size=end - start,
        status=200 if span is None else 206,
        content_type=blob.media_type.encode(),
        headers=headers,
    )
