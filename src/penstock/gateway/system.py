"""Endpoints about the service itself: health, metrics, its description, and what it depends on."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from penstock.errors import DatabaseUnavailable, NotFound
from penstock.gateway.infra import Infra, InfraStatus
from penstock.gateway.providers import ProvidersStatus, ProvidersWatch
from penstock.jobs.job import Stats
from penstock.jobs.service import JobService
from penstock.jobs.store import DEFAULT_TENANT
from penstock.postgres.pool import Database
from penstock.telemetry import metrics
from penstock.web.call import Answer, Call, answer
from penstock.web.route import Response, Route

_STATS_SECONDS = 1.0  # how long one look at the counters serves scrapes

_JOBS = metrics.gauge("penstock_jobs", "Jobs by queue and status.", ["task_type", "model_profile", "status"])
_ERRORS = metrics.gauge(
    "penstock_attempt_errors", "Attempts that ended in an error, by queue.", ["task_type", "model_profile", "category"]
)
_OLDEST = metrics.gauge(
    "penstock_oldest_pending_seconds", "How long the oldest due job has waited.", ["task_type", "model_profile"]
)

DOCS_PAGE = b"""<!doctype html>
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
_START = b"""window.ui = SwaggerUIBundle({url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null,
  displayRequestDuration: true, tryItOutEnabled: true, persistAuthorization: false});
"""
# The page runs its own two scripts and talks to this service, nothing else.
_PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:",
)


def _asset(name: str) -> bytes:
    """A file of Swagger UI, which comes as a dependency."""
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise NotFound(f"the package that holds {name} is not installed")
    return Path(spec.origin).with_name("static").joinpath(name).read_bytes()


_PROVIDERS = {
    "providers": [
        {
            "name": "llm",
            "configured": True,
            "kind": "chat",
            "model": "qwen2.5-14b",
            "profiles": ["qwen2.5-14b"],
            "reachable": True,
            "latency_ms": 4.2,
            "models": ["qwen2.5-14b"],
            "error": None,
            "breaker": "closed",
            "wait_seconds": 0.0,
            "running": 2,
            "last_error": {
                "category": "rate_limited",
                "message": "the provider limits us (429)",
                "at": "2026-01-30T09:00:00Z",
            },
            "workers": 1,
        },
        {"name": "whisperx", "configured": False},
    ]
}
_INFRA: dict[str, Any] = {"configured": False, "sidecars": []}


class Health(Struct, frozen=True, kw_only=True):
    """That the process, or what it needs, is in order."""

    status: str


class SystemRoutes:
    """The endpoints; ``openapi`` is set once all routes are known."""

    def __init__(self, database: Database, service: JobService, providers: ProvidersWatch, infra: Infra) -> None:
        self.openapi = b"{}"
        self._database = database
        self._service = service
        self._providers = providers
        self._infra = infra
        self._stats_at = 0.0

    async def healthz(self, call: Call) -> Answer:
        call.query({})
        return answer(Health(status="ok"))

    async def readyz(self, call: Call) -> Answer:
        call.query({})
        await self._database.ping()
        return answer(Health(status="ready"))

    async def metrics(self, call: Call) -> Answer:
        call.query({})
        now = time.monotonic()
        if now - self._stats_at >= _STATS_SECONDS:
            self._stats_at = now
            with suppress(DatabaseUnavailable):  # what this process knows of itself is told all the same
                _measure(await self._service.stats(DEFAULT_TENANT))
        return Answer(body=metrics.exposition(), content_type=metrics.CONTENT_TYPE.encode())

    async def described(self, call: Call) -> Answer:
        call.query({})
        return Answer(body=self.openapi)

    async def docs(self, _call: Call) -> Answer:
        return Answer(body=DOCS_PAGE, content_type=b"text/html; charset=utf-8", headers=[_PAGE_POLICY])

    async def docs_script(self, _call: Call) -> Answer:
        return Answer(body=_asset("swagger-ui-bundle.js"), content_type=b"text/javascript", headers=_CACHED)

    async def docs_style(self, _call: Call) -> Answer:
        return Answer(body=_asset("swagger-ui.css"), content_type=b"text/css", headers=_CACHED)

    async def docs_start(self, _call: Call) -> Answer:
        return Answer(body=_START, content_type=b"text/javascript")

    async def home(self, _call: Call) -> Answer:
        return Answer(status=307, headers=[(b"location", b"/docs")])

    async def providers(self, call: Call) -> Answer:
        call.query({})
        return answer(await self._providers.status())

    async def infra(self, call: Call) -> Answer:
        call.query({})
        return answer(await self._infra.status())

    def all(self) -> list[Route]:
        """Every route."""
        page = Response(description="The page", type=str, media_type="text/html")
        script = Response(description="The script", type=str, media_type="text/javascript")
        return [
            Route(
                method="GET",
                path="/healthz",
                handler=self.healthz,
                name="health",
                tag="System",
                summary="Whether the process runs",
                responses={200: Response(description="It does", type=Health, example={"status": "ok"})},
                open=True,
            ),
            Route(
                method="GET",
                path="/readyz",
                handler=self.readyz,
                name="readiness",
                tag="System",
                summary="Whether PostgreSQL answers",
                responses={200: Response(description="It does", type=Health, example={"status": "ready"})},
                errors=(DatabaseUnavailable,),
                open=True,
            ),
            Route(
                method="GET",
                path="/metrics",
                handler=self.metrics,
                name="metrics",
                tag="System",
                summary="Prometheus metrics",
                responses={200: Response(description="The metrics", type=str, media_type="text/plain")},
            ),
            Route(
                method="GET",
                path="/api/v1/providers/status",
                handler=self.providers,
                name="providersStatus",
                tag="System",
                summary="Whether the configured AI providers can be reached, and how they stand with the workers",
                responses={200: Response(description="Each provider", type=ProvidersStatus, example=_PROVIDERS)},
            ),
            Route(
                method="GET",
                path="/api/v1/infra/status",
                handler=self.infra,
                name="infraStatus",
                tag="System",
                summary="Telemetry of AI servers",
                responses={200: Response(description="Each configured sidecar", type=InfraStatus, example=_INFRA)},
            ),
            Route(
                method="GET",
                path="/openapi.json",
                handler=self.described,
                name="openapi",
                tag="System",
                summary="This description",
                responses={200: Response(description="OpenAPI 3.1", type=dict[str, Any])},
                open=True,
            ),
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
                for path, handler, name, summary, status, response in (
                    ("/", self.home, "home", "Leads to the documentation", 307, Response(description="To /docs")),
                    ("/docs", self.docs, "docs", "This API, to read and try", 200, page),
                    ("/docs/swagger-ui-bundle.js", self.docs_script, "docsScript", "Part of the page", 200, script),
                    ("/docs/start.js", self.docs_start, "docsStart", "Part of the page", 200, script),
                    (
                        "/docs/swagger-ui.css",
                        self.docs_style,
                        "docsStyle",
                        "Part of the page",
                        200,
                        Response(description="The style", type=str, media_type="text/css"),
                    ),
                )
            ),
        ]


_CACHED = [(b"cache-control", b"max-age=86400")]


def _measure(stats: Stats) -> None:
    for queue in stats.queues:
        names = (queue.task_type, queue.model_profile)
        for status in ("pending", "running", "completed", "failed", "cancelled"):
            _JOBS.labels(*names, status).set(getattr(queue, status))
        for category, count in queue.errors.items():
            _ERRORS.labels(*names, category).set(count)
        _OLDEST.labels(*names).set(queue.oldest_pending_seconds or 0.0)
