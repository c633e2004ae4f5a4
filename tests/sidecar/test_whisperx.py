"""The health of WhisperX servers with a page for it, without one, and of those that are ill."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.telemetry import HealthCheck
from penstock.sidecar.whisperx import WhisperxReader
from tests.models.servers import Handler, answering, closed_port, serving


async def read(handler: Handler) -> tuple[HealthCheck, list[str]]:
    """Return what is reported, and which paths were requested."""
    async with serving(handler) as server, aiohttp.ClientSession() as session:
        told = await WhisperxReader(session, server.address.replace("://", "://admin:pass-word@")).read()
        assert told.latency_ms is not None
        assert told.url == server.address.replace("://", "://******@")
        return told, server.paths


async def test_a_healthy_one() -> None:
    told, paths = await read(answering({"status": "ok"}))
    assert (told.reachable, told.status, told.error, paths) == (True, 200, None, ["/health"])


async def test_a_server_without_a_health_page_is_checked_by_its_first_page() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/health":
            raise web.HTTPNotFound
        raise web.HTTPTemporaryRedirect("/docs")

    told, paths = await read(answer)
    assert (told.reachable, told.status, told.error, paths) == (True, 307, None, ["/health", "/"])


async def test_an_ill_one_is_reachable_with_an_error() -> None:
    told, _ = await read(answering({}, 503))
    assert (told.reachable, told.status, told.error) == (True, 503, "HTTP status 503")


async def test_no_server_there() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SourceFailed, match="cannot connect"):
            await WhisperxReader(session, closed_port()).read()
