"""The API's OpenAPI description, and the page to read and try it, which loads nothing from other hosts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from penstock.errors import NotFound
from penstock.web.openapi import About
from penstock.web.request import Request
from penstock.web.response import Response
from penstock.web.route import ResponseSpec, Route, route
from penstock.web.static import StaticFile, static_routes

_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Penstock API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
<style>body { margin: 0 } .topbar { display: none }</style>
</head>
<body>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""window.ui = SwaggerUIBundle({url: "/openapi.json", dom_id: "#docs", deepLinking: true,
  validatorUrl: null, displayRequestDuration: true, tryItOutEnabled: true, persistAuthorization: false});
"""
# The page runs only its own two scripts and connects only to this service.
_PAGE_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:",
)
_CACHED: Final = [(b"cache-control", b"max-age=86400")]


ABOUT: Final = About(
    title="Penstock",
    version=version("penstock"),
    description=(
        "One backend for AI models: call them live, stream from them, or give them durable jobs. Callers submit jobs "
        "and read results; workers claim jobs, keep their leases by heartbeats and hand in results. Errors are problem "
        "details (RFC 9457) with a stable `code`. A response repeats the `X-Request-ID` of its request. "
        "`Penstock-User` states the end user on whose behalf it is sent; with `Penstock-Tenant` an operator acts "
        "for a tenant."
    ),
    license={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    bearer_setting="a key, or AI_SERVICE_TOKEN",
)


class DocumentationRoutes:
    """The description of the API, which is written when it is first requested, and the page that shows it.

    ``describe`` writes it for a gateway that needs a key or one that needs none; ``guarded`` returns whether a key is
    needed now.
    """

    def __init__(self, describe: Callable[[bool], bytes], guarded: Callable[[], bool]) -> None:
        self._openapi = cache(describe)
        self._guarded = guarded

    @route(
        "GET",
        "/openapi.json",
        name="openapi",
        tag="System",
        summary="This description",
        responses={200: ResponseSpec(description="OpenAPI 3.1", type=dict[str, Any])},
        open=True,
    )
    async def described(self, request: Request) -> Response:
        request.query({})
        return Response(body=self._openapi(self._guarded()))

    @route(
        "GET",
        "/",
        name="home",
        tag="System",
        summary="Redirect to the documentation",
        responses={307: ResponseSpec(description="Redirect to /docs")},
        open=True,
    )
    async def home(self, _request: Request) -> Response:
        return Response(status=307, headers=[(b"location", b"/docs")])


def page_routes() -> list[Route]:
    """Return the routes of the page ``/docs`` and of its parts."""
    return static_routes(_FILES, tag="System")


def _asset(name: str) -> bytes:
    """Return a file of Swagger UI, which is installed as a dependency."""
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise NotFound(f"the package that holds {name} is not installed")
    return Path(spec.origin).with_name("static").joinpath(name).read_bytes()


_FILES: Final = (
    StaticFile(
        path="/docs",
        name="docs",
        summary="The API's documentation, with requests to try",
        content=lambda: _PAGE,
        content_type="text/html; charset=utf-8",
        headers=[_PAGE_POLICY],
    ),
    StaticFile(
        path="/docs/swagger-ui-bundle.js",
        name="docsScript",
        summary="Part of the page",
        content=lambda: _asset("swagger-ui-bundle.js"),
        content_type="text/javascript",
        headers=_CACHED,
    ),
    StaticFile(
        path="/docs/start.js",
        name="docsStart",
        summary="Part of the page",
        content=lambda: _START,
        content_type="text/javascript",
        headers=[],
    ),
    StaticFile(
        path="/docs/swagger-ui.css",
        name="docsStyle",
        summary="Part of the page",
        content=lambda: _asset("swagger-ui.css"),
        content_type="text/css",
        headers=_CACHED,
    ),
)
