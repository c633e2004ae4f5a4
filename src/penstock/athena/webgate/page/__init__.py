"""The page to try a service. It loads nothing from other hosts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from penstock.athena.credentials.http import TAG
from penstock.web.response import Headers, Response
from penstock.web.route import Route
from penstock.web.static import StaticFile, static_routes

# The page runs only its own script and connects only to this service.
_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src data:; media-src data:",
)
_NOT_CACHED: Final[Headers] = [(b"cache-control", b"no-cache")]


def page() -> Response:
    """Return the page itself."""
    return Response(body=_file("index.html"), content_type=b"text/html; charset=utf-8", headers=[_POLICY, *_NOT_CACHED])


def parts() -> list[Route]:
    """Return the routes of the script and the style of the page."""
    return static_routes(
        [
            StaticFile(
                path=f"/athena/try/{name}",
                name=operation,
                summary="Part of the page to try a service",
                content=lambda name=name: _file(name),  # type: ignore[misc]  # bound now
                content_type=content_type,
                headers=_NOT_CACHED,
            )
            for name, operation, content_type in (
                ("page.js", "athenaPageScript", "text/javascript; charset=utf-8"),
                ("stream.js", "athenaPageSessions", "text/javascript; charset=utf-8"),
                ("page.css", "athenaPageStyle", "text/css; charset=utf-8"),
            )
        ],
        tag=TAG,
    )


@cache
def _file(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
