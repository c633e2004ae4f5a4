"""The process ``penstock gateway``."""

from __future__ import annotations

import asyncio

from penstock.gateway.app import Gateway
from penstock.jobs.limits import JobLimits
from penstock.jobs.service import JobService
from penstock.models.host.host import ModelHost
from penstock.models.service import ModelService
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.processes.stopping import on_signals
from penstock.providers.catalogue import load
from penstock.settings import Settings, environment
from penstock.telemetry import logs
from penstock.web.listening import listeners
from penstock.web.server import Server

log = logs.get(__name__)


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
        ModelHost(private=Settings.descriptions(), cancel_grace=settings.penstock_cancel_grace),
        folder=settings.penstock_models_dir,
        database=database,
        watch_code=settings.penstock_models_watch,
    )
    gateway = Gateway(settings, database, jobs, models, catalogue)
    server = Server(gateway.application, stopping=gateway.stopping)
    stop = asyncio.Event()
    try:
        with on_signals(stop.set):
            await gateway.start()
            port = sockets[0].getsockname()[1]
            await server.start(sockets)
            log.info("gateway_started", host=settings.http_host, port=port)
            await stop.wait()
            await server.stop(settings.penstock_shutdown_grace)
    finally:
        await gateway.stop()
        await database.close()
        log.info("gateway_stopped")
