"""The health of WhisperX servers with a health page, without one, and of failing ones."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.telemetry import HealthCheck
from penstock.sidecar.whisperx import WhisperxReader
from tests.support.http_servers import Handler, closed_port, responding, serving


async def read(handler: Handler) -> tuple[HealthCheck, list[str]]:
    """Return the reading and the requested paths."""
    async with serving(handler) as server, aiohttp.ClientSession() as session:
        health = await WhisperxReader(session, server.address.replace("://", "://admin:pass-word@")).read()
        assert health.latency_ms is not None
        assert health.url == server.address.replace("://", "://******@")
        return health, server.paths


async def test_a_healthy_server() -> None:
    health, paths = await read(responding({"status": "ok"}))
    assert (health.reachable, health.status, health.error, paths) == (True, 200, None, ["/health"])


async def test_a_server_without_a_health_page_is_checked_by_its_first_page() -> None:
    async def respond(request: web.Request) -> web.Response:
        if request.path == "/health":
            raise web.HTTPNotFound
        raise web.HTTPTemporaryRedirect("/docs")

    health, paths = await read(respond)
    assert (health.reachable, health.status, health.error, paths) == (True, 307, None, ["/health", "/"])


async def test_a_failing_server_is_reachable_with_an_error() -> None:
    health, _ = await read(responding({}, 503))
    assert (health.reachable, health.status, health.error) == (True, 503, "HTTP status 503")


async def test_a_missing_server_is_not_reachable() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SourceFailed, match="cannot connect"):
            await WhisperxReader(session, closed_port()).read()
