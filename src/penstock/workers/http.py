"""The worker's own small HTTP server, which reports its health, for Kubernetes, and its activity."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from penstock.masking import Secret
from penstock.telemetry import metrics
from penstock.tenants import scopes
from penstock.web.bearer import BearerCheck, anyone
from penstock.web.dispatch import Dispatcher
from penstock.web.listening import listeners
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route, routes_of
from penstock.web.server import Server
from penstock.workers.worker import Worker

_GRACE: Final = timedelta(seconds=1)  # time for responses that are being sent when the worker stops
_STATE: Final = ResponseSpec(description="The state", type=dict[str, str])


@asynccontextmanager
async def serving(worker: Worker, *, host: str, port: int, token: Secret | None = None) -> AsyncIterator[int]:
    """Serve a worker's health while the block runs; yield the port, which the system chooses for port 0.

    Raises SettingsError when the server cannot listen on the address.
    """
    sockets = listeners(host, port, "WORKER_HTTP_PORT")
    check = anyone if token is None else BearerCheck(token, "AI_SERVICE_TOKEN")
    server = Server(Dispatcher(routes_of(WorkerRoutes(worker)), check))
    await server.start(sockets)
    try:
        yield int(sockets[0].getsockname()[1])
    finally:
        await server.stop(_GRACE)


class WorkerRoutes:
    """Routes for the state of one worker. As in a gateway, only ``/metrics`` needs the token, if one is set."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @route(
        "GET",
        "/healthz",
        name="health",
        tag="Worker",
        summary="Check whether the process is healthy",
        responses={200: _STATE, 503: _STATE},
        open=True,
    )
    async def health(self, _request: Request) -> Response:
        return _stated("ok", 200) if self._worker.healthy else _stated("failing", 503)

    @route(
        "GET",
        "/readyz",
        name="readiness",
        tag="Worker",
        summary="Check whether the worker claims jobs",
        responses={200: _STATE, 503: _STATE},
        open=True,
    )
    async def ready(self, _request: Request) -> Response:
        return _stated("ready", 200) if self._worker.ready else _stated("not ready", 503)

    @route(
        "GET",
        "/worker/status",
        name="status",
        tag="Worker",
        summary="Get the activity of the worker",
        responses={200: ResponseSpec(description="The worker's queues and attempts", type=dict[str, Any])},
        open=True,
    )
    async def status(self, _request: Request) -> Response:
        return json_response(self._worker.status())

    @route(
        "GET",
        "/metrics",
        name="metrics",
        tag="Worker",
        scope=scopes.OPERATOR,
        summary="Prometheus metrics",
        responses={200: ResponseSpec(description="The metrics", type=str, media_type="text/plain")},
    )
    async def metrics(self, _request: Request) -> Response:
        return Response(body=metrics.exposition(), content_type=metrics.CONTENT_TYPE.encode())


def _stated(status: str, code: int) -> Response:
    return json_response({"status": status}, code)
