"""Assembles the HTTP app: routes, who may call them, what errors become, what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from penstock.blobs import routes as blob_routes
from penstock.blobs.handlers import BlobHandlers
from penstock.blobs.service import BlobService
from penstock.errors import MethodNotAllowed, NotFound, PenstockError, ServiceError
from penstock.gateway import problems
from penstock.gateway.access import Access
from penstock.gateway.comparisons import ComparisonRoutes
from penstock.gateway.documentation import DocumentationRoutes
from penstock.gateway.infra import Infra
from penstock.gateway.inputs import InputCheck
from penstock.gateway.openapi import document
from penstock.gateway.providers import ProvidersWatch
from penstock.gateway.sending import passing_request_id_back, send_bytes, send_response, send_stream
from penstock.gateway.system import SystemRoutes
from penstock.jobs import routes as job_routes
from penstock.jobs.handlers import JobHandlers, Sizes
from penstock.jobs.service import JobService
from penstock.models import backend
from penstock.models import routes as model_routes
from penstock.models.backend import BackendHandlers
from penstock.models.handlers import ModelHandlers
from penstock.models.host.host import ModelHost
from penstock.models.service import ModelService
from penstock.postgres.pool import Database
from penstock.providers.profile import Catalogue
from penstock.settings import Settings
from penstock.telemetry import logs, metrics
from penstock.web.request import Disconnected, Request
from penstock.web.response import ByteStream, EventStream, Response
from penstock.web.route import Route
from penstock.workers.uploads import UploadLoader

log = logs.get(__name__)

_SECONDS = metrics.histogram("penstock_http_seconds", "Time from a request's head to its answer.", ["method", "path"])
_ANSWERS = metrics.counter("penstock_http_answers", "Answers by status.", ["method", "path", "status"])
_BATCHES = metrics.histogram(
    "penstock_group_commit_jobs",
    "How many jobs one statement wrote.",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


class Gateway:
    """The ASGI app. ``stopping`` is set when the process is told to stop: long-polls and streams end then."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        service: JobService,
        models: ModelService | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self.logs_requests = settings.penstock_log_level == "debug"  # asked here once: a line costs what a request may
        self._service = service
        self._models = models or ModelService(ModelHost())
        self.access = Access(settings.ai_service_token)
        sizes = Sizes(
            input=settings.penstock_max_input_bytes,
            result=settings.penstock_max_result_bytes,
            batch=settings.penstock_max_batch_bytes,
        )
        catalogue = catalogue or Catalogue({}, {})
        self._providers = ProvidersWatch(catalogue, database)
        self._infra = Infra(settings)
        system, documentation = SystemRoutes(database, service, self._providers, self._infra), DocumentationRoutes()
        blobs = BlobService(
            database,
            max_bytes=settings.penstock_max_blob_bytes,
            keep=timedelta(days=settings.penstock_retention_days),
        )
        most = settings.penstock_max_call_bytes
        load = UploadLoader(blobs, most_bytes=most)
        models_api = ModelHandlers(self._models, describe=problems.describe, max_call_bytes=most, load=load)
        backend_api = BackendHandlers(self._models, describe=problems.describe, max_call_bytes=most, load=load)
        self.routes: list[Route] = [  # the router searches in this order: what is called most stands first
            *model_routes.routes(models_api),
            *job_routes.routes(JobHandlers(service, sizes, check=InputCheck(self._models.host, catalogue))),
            *ComparisonRoutes(service).all(),
            *blob_routes.routes(BlobHandlers(blobs)),
            *backend.routes(backend_api),
            *system.all(),
            *documentation.all(),
        ]
        documentation.openapi = document(self.routes, secured=self.access.guarded)
        endpoints = self._endpoints()
        self._fixed = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}
        self._router = Router(
            routes=[Path(path, endpoint=endpoint) for path, endpoint in endpoints.items() if "{" in path],
            default=self._not_found,
            redirect_slashes=False,
        )

    async def start(self) -> None:
        """Listen for wake-ups; the database need not be there."""
        await self._service.start()
        await self._models.start()

    async def stop(self) -> None:
        """End what waits and write what is queued."""
        self.stopping.set()
        await self._providers.close()
        await self._infra.close()
        await self._models.stop()
        await self._service.stop()

    @staticmethod
    def observe_batch(kind: str, size: int) -> None:
        """Measure a group commit."""
        _BATCHES.labels(kind).observe(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Most calls go to a path without parameters, which needs no search.
            found = self._fixed.get(scope["path"], self._router)
            await found(scope, receive, passing_request_id_back(scope, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def _endpoints(self) -> dict[str, _Endpoint]:
        by_path: dict[str, list[Route]] = {}
        for route in self.routes:
            by_path.setdefault(route.path, []).append(route)
        return {path: _Endpoint(self, routes) for path, routes in by_path.items()}

    async def _not_found(self, scope: Scope, _receive: Receive, send: Send) -> None:
        _ANSWERS.labels("any", "none", "404").inc()  # what strangers ask for must not become names of series
        await send_response(
            send, scope["method"], problems.response(NotFound(f"there is nothing at {scope['path'][:200]}"))
        )


class _Endpoint:
    """All methods of one path."""

    def __init__(self, gateway: Gateway, routes: Sequence[Route]) -> None:
        self._gateway = gateway
        self._routes = {route.method: route for route in routes}
        if "GET" in self._routes:
            self._routes["HEAD"] = self._routes["GET"]
        self._allow = ", ".join([*self._routes, "OPTIONS"])
        self._path = routes[0].path
        self._answers: dict[tuple[str, int], Any] = {}
        self._seconds = {method: _SECONDS.labels(method, self._path) for method in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        route = self._routes.get(method)
        if route is None:
            other = self._other_method(method)
            self._count("other", other.status)
            await send_response(send, method, other)
            return
        began = time.perf_counter()
        request = Request(scope, receive, max_body_bytes=route.max_body_bytes, stopping=self._gateway.stopping)
        try:
            response = await self._serve(route, request)
        except Disconnected:
            return
        if isinstance(response, EventStream):
            status = 200
            self._count(method, status)
            await send_stream(send, request, response, method)
        elif isinstance(response, ByteStream):
            status = response.status
            self._count(method, status)
            await send_bytes(send, request, response, method)
        else:
            status = response.status
            await send_response(send, method, response)
            self._count(method, status)
            self._seconds[method].observe(time.perf_counter() - began)
        if self._gateway.logs_requests:
            milliseconds = round(1000 * (time.perf_counter() - began), 2)
            log.debug("request", method=method, path=scope["path"], status=status, ms=milliseconds)

    async def _serve(self, route: Route, request: Request) -> Response | ByteStream | EventStream:
        try:
            if not route.open:
                request.principal = self._gateway.access.check(request)
            return await route.handler(request)
        except PenstockError as error:
            if type(error) is ServiceError:
                log.exception("request_failed", route=route.name, request_id=request.header(b"x-request-id"))
            return problems.response(error)
        except Disconnected:
            raise
        except Exception:  # whatever nobody foresaw is ours, and its details stay in the log
            log.exception("request_failed", route=route.name, request_id=request.header(b"x-request-id"))
            return problems.unexpected()

    def _other_method(self, method: str) -> Response:
        if method == "OPTIONS":
            return Response(status=204, headers=[(b"allow", self._allow.encode())])
        error = MethodNotAllowed(f"{self._path} answers {self._allow}")
        return problems.response(error, allow=self._allow)

    def _count(self, method: str, status: int) -> None:
        child = self._answers.get((method, status))
        if child is None:
            child = self._answers[method, status] = _ANSWERS.labels(method, self._path, str(status))
        child.inc()
