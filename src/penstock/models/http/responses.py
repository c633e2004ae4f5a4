"""Make an HTTP response from a model's output: JSON, or the bytes of its media."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from penstock.models.host.calls import CallResult
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.models.result_files import ResultFiles, pieces_of
from penstock.web.request import Request
from penstock.web.response import JSON, ByteStream, Response


async def as_response(
    request: Request, result: CallResult, request_id: str, files: ResultFiles
) -> Response | ByteStream:
    """Return the response to a live call. Media are sent as bytes when they are the whole output, or when ``Accept``
    names their type; otherwise as ``data:`` URLs in the JSON, or by the names of ``files`` in which they are kept."""
    headers = [
        (b"x-request-id", request_id.encode("latin-1", "replace")),
        (b"x-model-version", result.version.encode()),
        (b"server-timing", _timing(result)),
    ]
    if request.header(b"x-request-id") is not None:
        del headers[0]  # the gateway repeats it
    if not result.segments:
        return Response(body=result.json, headers=headers)
    segment = _as_bytes(request.header(b"accept") or "*/*", result.segments)
    if segment is not None:
        if segment.name:
            headers.append((b"content-disposition", _disposition(segment.name)))
        media_type = segment.media_type.encode("latin-1", "replace")
        if isinstance(segment.data, FileBytes):
            return ByteStream(
                chunks=pieces_of(segment.data), size=segment.data.size, content_type=media_type, headers=headers
            )
        return Response(body=bytes(segment.data), content_type=media_type, headers=headers)
    result = await files.kept(result, request.principal.tenant)
    return Response(body=inlined(result.json, result.segments), content_type=JSON, headers=headers)


def _as_bytes(accept: str, segments: Sequence[Segment]) -> Segment | None:
    """Return the segment that is sent as bytes, if one is."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    whole = segments[0] if len(segments) == 1 and not segments[0].path else None
    if whole is not None and not any(fnmatchcase("application/json", one) for one in wanted if one != "*/*"):
        return whole
    named = [
        one
        for one in wanted
        if one.partition("/")[0] in {"image", "audio", "video"} or one == "application/octet-stream"
    ]
    matching = [segment for segment in segments if any(fnmatchcase(segment.media_type, one) for one in named)]
    return matching[0] if len(matching) == 1 else None


def _timing(result: CallResult) -> bytes:
    return b"queue;dur=%.3f, model;dur=%.3f" % (1000 * result.queue_seconds, 1000 * result.model_seconds)


def _disposition(name: str) -> bytes:
    plain = "".join(letter for letter in name if letter.isascii() and letter.isprintable() and letter not in '"\\/;')
    return b'inline; filename="%s"' % (plain or "output").encode()
