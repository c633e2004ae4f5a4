"""Endpoints about the service itself: health and metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from penstock.blobs.objects.stores import ObjectStores
from penstock.brokers.broker import Broker
from penstock.errors import DatabaseUnavailable, SchemaMismatch
from penstock.flows.attention import Attention
from penstock.gateway.measures import Measure
from penstock.postgres.pool import Database
from penstock.telemetry import metrics
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

_STATS_SECONDS = 1.0  # how long scrapes share statistics that were read once


class Health(Struct, frozen=True, kw_only=True):
    """The health of the process and of what it depends on."""

    status: str


class Readiness(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the process can serve requests. Brokers and a store of larger files that are unavailable do not prevent
    that, nor do runs of flows that need attention."""

    status: str
    files: Literal["available", "unavailable"]
    brokers: dict[str, str] = {}  # "connected" or "unavailable", by name, if brokers are used
    flows: Literal["ok", "attention"] = "ok"  # "attention": runs are held, or of versions that no runner has


class SystemRoutes:
    """The health and metrics of a gateway."""

    def __init__(
        self,
        database: Database,
        *,
        brokers: Sequence[Broker],
        stores: ObjectStores,
        measures: Sequence[Measure],
        attention: Attention,
    ) -> None:
        self._brokers = brokers
        self._attention = attention
        self._database = database
        self._stores = stores
        self._measures = measures
        self._stats_at = 0.0

    @route(
        "GET",
        "/healthz",
        name="health",
        tag="System",
        summary="Check whether the process runs",
        responses={200: ResponseSpec(description="The process runs", type=Health, example={"status": "ok"})},
        open=True,
    )
    async def healthz(self, request: Request) -> Response:
        request.query({})
        return json_response(Health(status="ok"))

    @route(
        "GET",
        "/readyz",
        name="readiness",
        tag="System",
        summary="Check whether PostgreSQL responds, has the right schema and accepts writes",
        description="While the store of larger files cannot be used, `files` is `unavailable` and the gateway is still "
        "ready: only requests that need such a file fail, with 503. `flows` is `attention` while runs are held because "
        "their code has changed, or while no runner has their version; `GET /api/v1/flows/trouble` counts them.",
        responses={
            200: ResponseSpec(
                description="PostgreSQL is ready", type=Readiness, example={"status": "ready", "files": "available"}
            )
        },
        errors=(DatabaseUnavailable, SchemaMismatch),
        open=True,
    )
    async def readyz(self, request: Request) -> Response:
        request.query({})
        await self._database.ping()
        usable = (await self._stores.state()).problem is None
        states = {one.name: "connected" if one.connected.is_set() else "unavailable" for one in self._brokers}
        return json_response(
            Readiness(
                status="ready",
                files="available" if usable else "unavailable",
                brokers=states,
                flows=await self._attention.state(),
            )
        )

    @route(
        "GET",
        "/metrics",
        name="metrics",
        tag="System",
        scope=scopes.OPERATOR,
        summary="Prometheus metrics",
        responses={200: ResponseSpec(description="The metrics", type=str, media_type="text/plain")},
    )
    async def metrics(self, request: Request) -> Response:
        request.query({})
        now = time.monotonic()
        if now - self._stats_at >= _STATS_SECONDS:
            self._stats_at = now
            with suppress(DatabaseUnavailable):  # the process's own metrics do not need it
                for measure in self._measures:
                    await measure()
        return Response(body=metrics.exposition(), content_type=metrics.CONTENT_TYPE.encode())
