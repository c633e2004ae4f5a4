"""The process ``penstock gateway``."""

from __future__ import annotations

import asyncio

from penstock.gateway.app import Gateway
from penstock.processes.allocation import keep_freed_memory
from penstock.processes.garbage import collect_rarely
from penstock.processes.stopping import on_signals
from penstock.settings import Settings
from penstock.telemetry import logs
from penstock.web.listening import listeners
from penstock.web.server import Server

log = logs.get(__name__)


async def run(gateway: Gateway, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Without the database, start anyway, respond with 503, and recover when it is back.

    Raises SettingsError when it cannot listen on the address.
    """
    sockets = listeners(settings.http_host, settings.http_port, "HTTP_PORT")
    server = Server(gateway.application, stopping=gateway.stopping)
    stop = asyncio.Event()
    keep_freed_memory()
    try:
        with on_signals(stop.set):
            await gateway.start()
            port = sockets[0].getsockname()[1]
            await server.start(sockets)
            collect_rarely()
            log.info("gateway_started", host=settings.http_host, port=port)
            await stop.wait()
            await server.stop(settings.penstock_shutdown_grace)
    finally:
        await gateway.stop()
        log.info("gateway_stopped")
