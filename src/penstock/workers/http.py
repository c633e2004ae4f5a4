"""The worker's own small HTTP server: health for Kubernetes, and what it is doing."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from penstock.errors import FieldProblem, SettingsError
from penstock.masking import Secret
from penstock.telemetry import metrics
from penstock.workers.worker import Worker


@asynccontextmanager
async def serving(worker: Worker, *, host: str, port: int, token: Secret | None = None) -> AsyncIterator[int]:
    """Serve a worker's health while the block runs; yields the port, which port 0 leaves to the system.

    ``/healthz``: the process works. ``/readyz``: it takes jobs. ``/worker/status``: what it does. ``/metrics`` needs
    the token, if there is one, as a gateway's does.
    Raises SettingsError when the address cannot be listened on.
    """
    runner = web.AppRunner(_application(worker, token), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            problem = FieldProblem(
                field="WORKER_HTTP_PORT", detail=f"cannot listen on {host} port {port}: {error.strerror or error}"
            )
            raise SettingsError([problem]) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _application(worker: Worker, token: Secret | None) -> web.Application:
    expected = None if token is None else b"bearer " + token.reveal().encode()

    async def health(_request: web.Request) -> web.Response:
        return _json({"status": "ok" if worker.healthy else "failing"}, 200 if worker.healthy else 503)

    async def ready(_request: web.Request) -> web.Response:
        return _json({"status": "ready" if worker.ready else "not ready"}, 200 if worker.ready else 503)

    async def status(_request: web.Request) -> web.Response:
        return _json(worker.status(), 200)

    async def measured(request: web.Request) -> web.Response:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        given = f"{scheme.lower()} {secret.strip()}".encode("utf-8", "surrogateescape")
        if expected is not None and not hmac.compare_digest(given, expected):
            return _json({"detail": "the right token is needed: send Authorization: Bearer <AI_SERVICE_TOKEN>"}, 401)
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes(
        [
            web.get("/healthz", health),
            web.get("/readyz", ready),
            web.get("/worker/status", status),
            web.get("/metrics", measured),
        ]
    )
    return application


def _json(content: object, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")
