"""The API's description of itself, and the page to read and try it, which needs no other host."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from penstock.errors import NotFound
from penstock.web.request import Request
from penstock.web.response import Response
from penstock.web.route import ResponseSpec, Route

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
# The page runs its own two scripts and talks to this service, nothing else.
_PAGE_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:",
)
_CACHED: Final = [(b"cache-control", b"max-age=86400")]


class DocumentationRoutes:
    """The endpoints; ``openapi`` is set once all routes are known."""

    def __init__(self) -> None:
        self.openapi = b"{}"

    async def described(self, request: Request) -> Response:
        request.query({})
        return Response(body=self.openapi)

    async def page(self, _request: Request) -> Response:
        return Response(body=_PAGE, content_type=b"text/html; charset=utf-8", headers=[_PAGE_POLICY])

    async def script(self, _request: Request) -> Response:
        return Response(body=_asset("swagger-ui-bundle.js"), content_type=b"text/javascript", headers=_CACHED)

    async def style(self, _request: Request) -> Response:
        return Response(body=_asset("swagger-ui.css"), content_type=b"text/css", headers=_CACHED)

    async def start(self, _request: Request) -> Response:
        return Response(body=_START, content_type=b"text/javascript")

    async def home(self, _request: Request) -> Response:
        return Response(status=307, headers=[(b"location", b"/docs")])

    def all(self) -> list[Route]:
        """Every route."""
        page = ResponseSpec(description="The page", type=str, media_type="text/html")
        script = ResponseSpec(description="The script", type=str, media_type="text/javascript")
        style = ResponseSpec(description="The style", type=str, media_type="text/css")
        described = Route(
            method="GET",
            path="/openapi.json",
            handler=self.described,
            name="openapi",
            tag="System",
            summary="This description",
            responses={200: ResponseSpec(description="OpenAPI 3.1", type=dict[str, Any])},
            open=True,
        )
        parts = (
            ("/", self.home, "home", "Leads to the documentation", 307, ResponseSpec(description="To /docs")),
            ("/docs", self.page, "docs", "This API, to read and try", 200, page),
            ("/docs/swagger-ui-bundle.js", self.script, "docsScript", "Part of the page", 200, script),
            ("/docs/start.js", self.start, "docsStart", "Part of the page", 200, script),
            ("/docs/swagger-ui.css", self.style, "docsStyle", "Part of the page", 200, style),
        )
        return [
            described,
            *(
                Route(
                    method="GET",
                    path=path,
                    handler=handler,
                    name=name,
                    tag="System",
                    summary=summary,
                    responses={status: response},
                    open=True,
                )
                for path, handler, name, summary, status, response in parts
            ),
        ]


def _asset(name: str) -> bytes:
    """A file of Swagger UI, which comes as a dependency."""
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise NotFound(f"the package that holds {name} is not installed")
    return Path(spec.origin).with_name("static").joinpath(name).read_bytes()
