"""Metrics of vLLM from real servers: current, old, restarted, faulty and endless ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.telemetry import VllmModel
from penstock.sidecar.vllm import VllmReader
from tests.support.http_servers import Handler, closed_port, raw_server, sending, serving
from tests.support.vllm_metrics import OLD_METRICS, metrics


@asynccontextmanager
async def reading(url: str, clock: Callable[[], float]) -> AsyncIterator[VllmReader]:
    async with aiohttp.ClientSession() as session:
        yield VllmReader(session, url, clock=clock)


async def refused(handler: Handler) -> str:
    """Return the error that is reported for a server with this handler."""
    async with serving(handler) as server, reading(server.address, lambda: 0.0) as reader:
        with pytest.raises(SourceFailed) as error:
            await reader.read()
    return str(error.value)


async def test_engines_are_added_up_and_tokens_are_counted_between_two_readings() -> None:
    bodies = [metrics(1000, 50), metrics(3000, 250), metrics(10, 260), metrics(110, 300)]
    times = iter([100.0, 104.0, 106.0, 107.0])

    async def respond(_: web.Request) -> web.Response:
        return web.Response(body=bodies.pop(0), content_type="text/plain")

    async with serving(respond) as server, reading(server.address + "/", lambda: next(times)) as reader:
        assert await reader.read() == [
            VllmModel(name="qwen2.5-14b", requests_running=5, requests_waiting=7, cache_usage=0.5)
        ]
        (second,) = await reader.read()
        assert (second.prompt_tokens_per_second, second.generation_tokens_per_second) == (500.0, 50.0)
        (restarted,) = await reader.read()
        assert (restarted.prompt_tokens_per_second, restarted.generation_tokens_per_second) == (None, 5.0)
        (fourth,) = await reader.read()
        assert (fourth.prompt_tokens_per_second, fourth.generation_tokens_per_second) == (100.0, 40.0)
    assert server.paths == ["/metrics"] * 4


async def test_the_cache_is_found_under_its_old_name_and_a_value_that_is_not_a_number_is_null() -> None:
    async with (
        serving(sending(OLD_METRICS, "text/plain")) as server,
        reading(server.address, lambda: 0.0) as reader,
    ):
        assert await reader.read() == [VllmModel(name='opt "125m"', requests_running=1, cache_usage=0.125)]


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (b"<html>hello</html>", "no metrics of vLLM"),
        (b"", "no metrics of vLLM"),
        (b"\xff\xfe\x00", "no metrics of vLLM"),
        (b'vllm:num_requests_running{model_name="x} many\n', "not in the format"),
        (b'vllm:num_requests_running{model_name="x"} soon\n', "not in the format"),
        (b"vllm:num_requests_running{{{{ 1\n", "not in the format"),
        (b'vllm:num_requests_running{model_name="x"} 1\n' * 10_001, "more than 10000 series"),
    ],
)
async def test_a_response_without_vllm_metrics_is_reported(body: bytes, reported: str) -> None:
    assert reported in await refused(sending(body, "text/plain"))


async def test_an_endless_response_is_cut_off_at_the_limit() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b'vllm:num_requests_running{model_name="x"} 1\n' * 1000)

    assert await refused(endless) == "the response has more than 4 MiB"


async def test_an_error_status_or_a_missing_server_is_reported_without_the_url() -> None:
    assert await refused(sending(b"", "text/plain", 503)) == "HTTP status 503"
    url = closed_port().replace("http://", "http://admin:pass-word@")
    async with reading(url, lambda: 0.0) as reader:
        with pytest.raises(SourceFailed, match=r"^cannot connect: Connection refused$"):
            await reader.read()
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n") as url, reading(url, lambda: 0.0) as reader:
        with pytest.raises(SourceFailed, match=r"^ClientResponseError$"):
            await reader.read()


async def test_a_user_in_the_url_is_sent_and_redirects_are_not_followed() -> None:
    async with (
        serving(sending(OLD_METRICS, "text/plain")) as server,
        reading(server.address.replace("://", "://admin:pass-word@"), lambda: 0.0) as reader,
    ):
        await reader.read()
        assert server.headers[0]["Authorization"].startswith("Basic ")

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound(server.address)

    assert await refused(elsewhere) == "HTTP status 302"
