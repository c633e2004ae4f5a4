"""The process ``penstock sidecar``: a small HTTP server that reports measurements and changes nothing.

``GET /healthz`` is open; ``GET /status`` needs INFRA_SIDECAR_TOKEN and returns a ``Report``.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from penstock.errors import FieldProblem, SettingsError
from penstock.masking import Secret
from penstock.processes.stopping import on_signals
from penstock.settings import Settings
from penstock.sidecar.sampler import Sampler, sources
from penstock.sidecar.telemetry import Report
from penstock.telemetry import logs
from penstock.tenants import scopes
from penstock.web.bearer import BearerCheck
from penstock.web.dispatch import Dispatcher
from penstock.web.listening import listeners
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route, routes_of
from penstock.web.server import Server

log = logs.get(__name__)

_GRACE: Final = timedelta(seconds=5)  # for responses that are being sent when the process stops


async def run(settings: Settings) -> None:
    """Measure and report until SIGTERM or SIGINT.

    Raises SettingsError without INFRA_SIDECAR_TOKEN, and when it cannot listen on the address.
    """
    token = _required_token(settings)
    stop = asyncio.Event()
    sockets = listeners(settings.sidecar_http_host, settings.sidecar_http_port, "SIDECAR_HTTP_PORT")
    async with sources(settings) as found:
        sampler = Sampler(found, interval=settings.sidecar_interval)
        sampling = asyncio.create_task(sampler.run())
        server = Server(Dispatcher(routes_of(SidecarRoutes(sampler)), BearerCheck(token, "INFRA_SIDECAR_TOKEN")))
        try:
            with on_signals(stop.set):
                port = sockets[0].getsockname()[1]
                await server.start(sockets)
                log.info("sidecar_started", host=settings.sidecar_http_host, port=port)
                await stop.wait()
                await server.stop(_GRACE)
        finally:
            await sampler.stop()
            await sampling
    log.info("sidecar_stopped")


class SidecarRoutes:
    """The routes that return what a running sampler has measured."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    @route(
        "GET",
        "/healthz",
        name="health",
        tag="Sidecar",
        summary="Check whether the process runs",
        responses={200: ResponseSpec(description="The process runs", type=dict[str, str])},
        open=True,
    )
    async def health(self, _request: Request) -> Response:
        return json_response({"status": "ok"})

    @route(
        "GET",
        "/status",
        name="status",
        tag="Sidecar",
        scope=scopes.OPERATOR,
        summary="Get the GPUs, containers and model servers of this host",
        responses={200: ResponseSpec(description="The newest measurement", type=Report)},
    )
    async def status(self, _request: Request) -> Response:
        return json_response(await self._sampler.report())


def _required_token(settings: Settings) -> Secret:
    if settings.infra_sidecar_token is None:
        problem = FieldProblem(
            field="INFRA_SIDECAR_TOKEN", detail="a sidecar reports what runs on this host only to holders of a token"
        )
        raise SettingsError([problem])
    return settings.infra_sidecar_token
