"""Routes for files that do not change while the process runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.web.request import Request
from penstock.web.response import Headers, Response
from penstock.web.route import Handler, ResponseSpec, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One file and its path, which is open to everyone. ``content`` is called for each request."""

    path: str
    name: str  # the operation's id
    summary: str
    content: Callable[[], bytes]
    content_type: str
    headers: Headers


def static_routes(files: Sequence[StaticFile], *, tag: str) -> list[Route]:
    """Return a route for each file."""
    return [
        Route(
            method="GET",
            path=file.path,
            handler=_sending(file),
            name=file.name,
            tag=tag,
            summary=file.summary,
            responses={
                200: ResponseSpec(description="The file", type=str, media_type=file.content_type.partition(";")[0])
            },
            open=True,
        )
        for file in files
    ]


def _sending(file: StaticFile) -> Handler:
    async def send(_request: Request) -> Response:
        return Response(body=file.content(), content_type=file.content_type.encode(), headers=file.headers)

    return send
