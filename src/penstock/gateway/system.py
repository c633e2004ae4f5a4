"""Endpoints about the service itself: health and metrics."""

from __future__ import annotations

import time
from contextlib import suppress

from msgspec import Struct

from penstock.errors import DatabaseUnavailable, SchemaMismatch
from penstock.gateway.job_metrics import measure
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.telemetry import metrics
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, Route

_STATS_SECONDS = 1.0  # how long one look at the counters serves scrapes


class Health(Struct, frozen=True, kw_only=True):
    """That the process, or what it needs, is in order."""

    status: str


class SystemRoutes:
    """The endpoints."""

    def __init__(self, database: Database, service: JobService) -> None:
        self._database = database
        self._service = service
        self._stats_at = 0.0

    async def healthz(self, request: Request) -> Response:
        request.query({})
        return json_response(Health(status="ok"))

    async def readyz(self, request: Request) -> Response:
        request.query({})
        await self._database.ping()
        return json_response(Health(status="ready"))

    async def metrics(self, request: Request) -> Response:
        request.query({})
        now = time.monotonic()
        if now - self._stats_at >= _STATS_SECONDS:
            self._stats_at = now
            with suppress(DatabaseUnavailable):  # what this process knows of itself is told all the same
                measure(await self._service.of(request.principal.tenant).stats())
        return Response(body=metrics.exposition(), content_type=metrics.CONTENT_TYPE.encode())

    def all(self) -> list[Route]:
        """Every route."""
        return [
            Route(
                method="GET",
                path="/healthz",
                handler=self.healthz,
                name="health",
                tag="System",
                summary="Whether the process runs",
                responses={200: ResponseSpec(description="It does", type=Health, example={"status": "ok"})},
                open=True,
            ),
            Route(
                method="GET",
                path="/readyz",
                handler=self.readyz,
                name="readiness",
                tag="System",
                summary="Whether PostgreSQL answers, has the right schema and takes writes",
                responses={200: ResponseSpec(description="It does", type=Health, example={"status": "ready"})},
                errors=(DatabaseUnavailable, SchemaMismatch),
                open=True,
            ),
            Route(
                method="GET",
                path="/metrics",
                handler=self.metrics,
                name="metrics",
                tag="System",
                summary="Prometheus metrics",
                responses={200: ResponseSpec(description="The metrics", type=str, media_type="text/plain")},
            ),
        ]
