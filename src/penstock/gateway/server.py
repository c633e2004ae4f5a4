"""The process ``penstock gateway``."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from penstock.gateway.app import Gateway
from penstock.jobs.service import JobLimits, JobService
from penstock.models.host.host import ModelHost
from penstock.models.service import ModelService
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.providers.catalogue import load
from penstock.settings import Settings, environment
from penstock.telemetry import logs
from penstock.web.listening import listeners

log = logs.get(__name__)


class _Server(uvicorn.Server):
    """uvicorn, which tells the gateway to end what waits as soon as it is told to stop itself."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._stopping.set)


def configuration(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the gateway."""
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here depends on the caller's address
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.penstock_shutdown_grace.total_seconds()),
    )


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; starts without the database too, answers 503 and recovers by itself.

    Raises SettingsError when the address cannot be listened on.
    """
    sockets = listeners(settings.http_host, settings.http_port, "HTTP_PORT")
    catalogue = load(settings, environment())
    logs.mask(catalogue.secrets)
    database = Database(database_url(settings), application_name="penstock-gateway")
    jobs = JobService(database, JobLimits.from_settings(settings), observe_batch=Gateway.observe_batch)
    models = ModelService(
        ModelHost(private=Settings.descriptions()), folder=settings.penstock_models_dir, database=database
    )
    gateway = Gateway(settings, database, jobs, models, catalogue)
    await gateway.start()
    config = configuration(gateway, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn raises the signal again when it has stopped; that ends nothing
    log.info("gateway_started", host=settings.http_host, port=sockets[0].getsockname()[1])
    try:
        await _Server(config, gateway.stopping).serve(sockets=sockets)
    finally:
        await gateway.stop()
        await database.close()
        log.info("gateway_stopped")
