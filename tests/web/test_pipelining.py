"""Requests that arrive together on one connection."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from penstock.processes.signal import Signal
from penstock.web.connection import Connection
from penstock.web.connections import Connections
from penstock.web.limits import Limits
from penstock.web.request import Request
from penstock.web.response import Response
from tests.support.echo_application import EchoApplication
from tests.support.raw_http import chunked, get, post
from tests.support.waiting import until

MANY = 300_000 // len(get("/hello"))


class Sink(asyncio.Transport):
    """A transport that counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += 1

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


@pytest.mark.parametrize(
    "repeated",
    [get("/hello"), b"\r\n" + get("/hello"), post("/hello", b"body"), chunked("/hello", b"bo", b"dy")],
    ids=["get", "line break", "body", "chunked"],
)
async def test_a_request_does_not_copy_those_that_wait_behind_it(repeated: bytes) -> None:
    """Otherwise a client could cause copies whose size is the square of what it sends."""
    proceed = asyncio.Event()
    bodies = list[bytes]()

    async def application(request: Request) -> Response:
        await proceed.wait()
        bodies.append(await request.content())
        return Response(body=b"hello")

    sink, connections = Sink(), Connections(Limits())
    connection = Connection(application, connections, Signal(), asyncio.get_running_loop())
    connection.connection_made(sink)
    connection.data_received(repeated)
    connection.data_received(repeated * (300_000 // len(repeated)))
    tracemalloc.start()
    try:
        proceed.set()
        await until(lambda: sink.written >= 100, "some of the requests are served")
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        served = sink.written
        while sink.written < served + 100:
            await asyncio.sleep(0)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        connection.connection_lost(None)
    assert peak < 50_000, f"{peak} bytes were allocated for requests of {len(repeated)}"
    assert set(bodies) == {b"body"} or set(bodies) == {b""}


async def test_requests_of_every_kind_are_separated_in_one_piece(app: EchoApplication) -> None:
    body = b"x" * 100_000
    sent = [
        get("/hello"),
        post("/echo", body),
        b"\r\n\r\n",
        chunked("/echo", b"ab", body),
        post("/echo", b""),
        get("/hello"),
    ]
    async with app.client() as client:
        await client.send(get("/slow"))
        await app.routes.started.wait()
        client.writer.write(b"".join(sent))
        app.routes.proceed.set()
        replies = [(await client.reply()).body for _ in range(6)]
    assert replies == [b"slow", b"hello", body, b"ab" + body, b"", b"hello"]


async def test_many_requests_are_served_in_order(app: EchoApplication) -> None:
    async with app.client() as client:
        client.writer.write(b"".join(post("/echo", b"%d" % number) for number in range(MANY)))
        for number in range(MANY):
            assert (await client.reply()).body == b"%d" % number


async def test_a_client_that_leaves_is_noticed_although_its_requests_fill_the_buffer(app: EchoApplication) -> None:
    """The socket is not read then, so the server queries the system for its state."""
    async with app.client() as client:
        client.writer.write(get("/wait") + get("/hello") * 20_000)
        await app.routes.started.wait()
        await until(lambda: app.server.held_back == 1, "the server reads no more")
    await asyncio.wait_for(app.routes.left.wait(), 10)
    await until(lambda: not app.server.connections.open, "the connection is closed")
