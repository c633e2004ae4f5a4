"""Models whose server is elsewhere: it is not called while it limits us, nor while it rests after failing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.errors import InvalidInput
from penstock.failures import CallFailed
from penstock.models import manifest
from penstock.models.replica import runtimes
from penstock.models.replica.runtime import AsyncRuntime, Schema, Spec
from tests.support.http_servers import Handler, Seen, responding, serving
from tests.support.runtimes import CollectingWire, call_with, read

RUNTIMES = {
    "http": ("url", {}, {"text": "hi"}),
    "openai": ("base_url", {"model": "m"}, {"user": "hi"}),
}
COMPLETION = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}


@asynccontextmanager
async def serving_model(name: str, handler: Handler, **options: Any) -> AsyncIterator[tuple[AsyncRuntime, Seen]]:
    """Yield a model whose server is elsewhere, and the requests that the server gets.

    A call waits at most half of its limit of 10 s, which is less than the pause of a breaker.
    """
    address, more, _ = RUNTIMES[name]
    async with serving(handler) as seen:
        stated = {address: seen.address} | more | options
        kind = runtimes.find(name)
        assert not kind.check(stated, Path("/"))
        made = kind(Spec(name="m", version="1", folder=Path("/"), options=stated, schema=Schema(), timeout=10))
        assert isinstance(made, AsyncRuntime)
        try:
            yield made, seen
        finally:
            await made.unload()


async def predict(made: AsyncRuntime, *, streams: bool = False) -> Any:
    output = await made.predict(call_with(CollectingWire(), RUNTIMES[made.name][2], streams=streams))
    return None if output is None else read(output)


def waits(failed: CallFailed) -> float:
    """Return the seconds until the next attempt."""
    assert failed.retry_after is not None
    return failed.retry_after.total_seconds()


@pytest.mark.parametrize("name", RUNTIMES)
async def test_a_server_that_limits_us_is_not_called_before_the_reset_it_states(name: str) -> None:
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m0s"}
    async with serving_model(name, responding({}, status=429, **limits)) as (made, seen):
        with pytest.raises(CallFailed, match="limits us"):
            await predict(made)
        with pytest.raises(CallFailed, match="is not called for 120 s: its rate limit is used up") as caught:
            await predict(made)
        assert caught.value.category == "rate_limited"
        assert 100 < waits(caught.value) <= 120
        assert len(seen.bodies) == 1


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_server_that_fails_five_times_in_a_row_rests(name: str, streams: bool) -> None:
    async with serving_model(name, responding({"error": "out of memory"}, status=500)) as (made, seen):
        for _ in range(5):
            with pytest.raises(CallFailed, match="out of memory"):
                await predict(made, streams=streams)
        with pytest.raises(CallFailed, match=r"is not called for 10 s: it failed 5 times in a row") as caught:
            await predict(made, streams=streams)
        assert (caught.value.category, len(seen.bodies)) == ("rate_limited", 5)
        assert 5 < waits(caught.value) <= 10


async def test_input_that_is_never_sent_does_not_count_as_a_success_of_the_server() -> None:
    """Calls that fail before they are sent do not make a failing server look sound."""
    async with serving_model("openai", responding({}, status=500)) as (made, seen):
        for number in range(5):
            with pytest.raises(CallFailed, match="the provider failed"):
                await predict(made)
            with pytest.raises(CallFailed, match="needs messages"):
                await made.predict(call_with(CollectingWire(), {"max_tokens": number}))
        with pytest.raises(CallFailed, match="is not called"):
            await predict(made)
        assert len(seen.bodies) == 5


async def test_a_stated_rate_holds_calls_back() -> None:
    async with serving_model("openai", responding(COMPLETION), requests_per_minute=2) as (made, seen):
        for _ in range(2):
            assert (await predict(made))["content"] == "Hello"
        with pytest.raises(CallFailed, match="its rate limit is used up") as caught:
            await predict(made)
        assert len(seen.bodies) == 2
        assert 50 < waits(caught.value) <= 60


@pytest.mark.parametrize("rate", [0, 1.5, True, "many", 100_001])
def test_a_rate_is_a_whole_number(rate: object) -> None:
    problems = dict(runtimes.find("http").check({"url": "http://h", "requests_per_minute": rate}, Path("/")))
    assert problems == {"requests_per_minute": "must be a whole number from 1 to 100000"}


async def test_a_stream_that_breaks_off_counts_as_a_failure() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: {"error": "broken"}\n\n')
        return response

    async with serving_model("openai", handler) as (made, seen):
        for _ in range(5):
            with pytest.raises(CallFailed, match="the provider failed: broken"):
                await predict(made, streams=True)
        with pytest.raises(CallFailed, match="is not called"):
            await predict(made, streams=True)
        assert len(seen.bodies) == 5


def test_a_model_with_a_server_elsewhere_has_one_replica() -> None:
    stated = {"name": "m", "runtime": "http", "replicas": 2, "http": {"url": "http://127.0.0.1:1"}}
    with pytest.raises(InvalidInput) as caught:
        manifest.check(stated, folder=Path("/"), source="folder")
    (problem,) = caught.value.problems
    assert problem.field == "replicas"
    assert "must be 1 with the runtime http" in problem.detail
