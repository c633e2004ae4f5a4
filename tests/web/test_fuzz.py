"""Requests made up by hypothesis: however they are split they mean the same, and no bytes harm the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import Reply, chunked, get, post

RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
BODIES = st.binary(max_size=300)
REQUESTS = st.one_of(
    st.just(get("/hello")),
    BODIES.map(lambda body: post("/echo", body)),
    st.lists(BODIES.filter(bool), max_size=4).map(lambda chunks: chunked("/echo", *chunks)),
    st.just(chunked("/echo", b"abc", trailers=b"X-Sum: 1\r\n")),
    st.just(get("/three")),
    st.just(get("/nowhere")),
    BODIES.map(lambda body: post("/unread", body)),
)
PIECES = st.sampled_from(
    [
        b"GET /hello HTTP/1.1\r\n",
        b"POST /echo HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"0\r\n\r\n",
        b"5\r\nabcde\r\n",
        b"5;x=y\r\nabcde\r\n",
        b"abcde",
        b" ",
        b":",
        b"\x00",
        b"\xff" * 10,
        b"HTTP/1.1",
        b"A" * 5000,
    ]
)
GARBAGE = st.lists(st.one_of(PIECES, st.binary(max_size=40)), min_size=1, max_size=25).map(b"".join).filter(bool)


@pytest.fixture(scope="module")
async def brisk() -> AsyncIterator[EchoApplication]:
    """A server that does not wait long for the rest of what begins like a request."""
    tiny = timedelta(milliseconds=60)
    async with echo_application(head_timeout=tiny, body_window=tiny, idle_timeout=tiny, linger=tiny) as app:
        yield app


def split(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces that end at these places."""
    ends = sorted({place % len(data) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


async def replies(app: EchoApplication, pieces: list[bytes], count: int) -> list[Reply]:
    async with app.client() as client:
        sending = asyncio.create_task(client.send(*pieces))
        found = [await client.reply() for _ in range(count)]
        await sending
        return found


@RELAXED
@given(requests=st.lists(REQUESTS, min_size=1, max_size=5), places=st.lists(st.integers(0, 5000), max_size=12))
async def test_requests_mean_the_same_however_they_are_split(
    app: EchoApplication, requests: list[bytes], places: list[int]
) -> None:
    data = b"".join(requests)
    whole = await replies(app, [data], len(requests))
    assert await replies(app, split(data, places), len(requests)) == whole


@RELAXED
@given(garbage=GARBAGE, places=st.lists(st.integers(0, 5000), max_size=5), close=st.booleans())
async def test_any_bytes_end_in_responses_and_a_closed_connection(
    brisk: EchoApplication, garbage: bytes, places: list[int], close: bool
) -> None:
    async with brisk.client() as client:
        try:
            await client.send(*split(garbage, places))
            if close:
                client.writer.write_eof()
            for status in await client.statuses():
                assert status < 500 or status in {501, 505}
        except ConnectionError:
            pass
    assert await brisk.serves()
