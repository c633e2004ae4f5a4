"""The sending of whole responses and streams to readers that keep up, stall or leave, and while stopping."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import timedelta
from typing import Any

import pytest
import uvloop

from penstock.web.encoding import response_head
from penstock.web.response import Response
from penstock.web.writer import Writer
from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import chunked, get, post
from tests.support.waiting import until

TINY = timedelta(milliseconds=100)
SMALL_WINDOW = 32 * 1024  # what the kernel takes for a client that does not read


async def test_event_streams_end_with_their_last_event(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/three"))
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.body == b"retry: 1000\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_clients_of_http_1_0_get_streams_without_chunks(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(b"GET /three HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in reply.headers
        assert reply.body.endswith(b"data: 2\n\n")


async def test_byte_streams_have_their_length(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/bytes/1234567"))
        assert reply.headers["content-length"] == "1234567"
        assert reply.body == b"y" * 1234567
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_a_byte_stream_that_breaks_is_cut_short(app: EchoApplication) -> None:
    async with app.client() as client:
        await client.send(get("/short"))
        with pytest.raises(asyncio.IncompleteReadError):
            await client.reply()


async def test_an_exception_in_a_handler_is_a_500_without_details(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/broken"))
        assert (reply.status, b"mistake" in reply.body) == (500, False)
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_unknown_paths_and_methods_are_problems(app: EchoApplication) -> None:
    async with app.client() as client:
        assert (await client.exchange(get("/nowhere"))).code == "not_found"
        assert (await client.exchange(get("/hello/"))).code == "not_found"
        assert (await client.exchange(post("/hello", b""))).code == "method_not_allowed"
        await client.send(b"OPTIONS /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.reply()).headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: b", b"a\nb", b"a\rb", b"a\x00b"])
def test_a_header_cannot_break_out_of_its_line(value: bytes) -> None:
    for response in (Response(headers=[(b"x", value)]), Response(body=b"x", content_type=value)):
        with pytest.raises(ValueError, match="line break"):
            response_head(response, close=False)


# Readers that do not keep up


def reluctant(app: EchoApplication) -> socket.socket:
    """Return a connection whose client takes little on its own."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
    one.connect(("127.0.0.1", app.port))
    return one


@pytest.mark.parametrize("size", [1_000_000, 60_000, 100])
async def test_a_reader_that_stalls_holds_the_producer_and_is_cut(size: int) -> None:
    async with echo_application(drain_window=timedelta(seconds=1)) as app:
        with reluctant(app) as client:
            client.sendall(get(f"/events/{size}"))
            await until(lambda: app.server.connections.queued_bytes > 0, "the write buffer is full")
            assert app.server.unsent_bytes <= max(2 * size, 600_000)
            await app.routes.closed.wait()
        # What the kernel holds is bounded too, by TCP_NOTSENT_LOWAT and the client's window.
        assert app.routes.produced * size < 3_000_000 + 3 * size
        await until(lambda: not app.server.connections.open, "the connection is closed")
        assert app.server.connections.queued_bytes == 0


async def test_a_reader_that_is_slow_but_reads_is_not_cut() -> None:
    async with echo_application(drain_window=TINY) as app, app.client(limit=1000) as client:
        await client.send(get("/bytes/2000000"))
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(20):
            assert len(await client.reader.readexactly(100_000)) == 100_000
            await asyncio.sleep(0.02)  # a fifth of what stalls a stream


async def test_a_reader_that_takes_little_is_cut() -> None:
    """It is cut although it makes progress again and again."""
    async with echo_application(drain_window=timedelta(seconds=1), drain_rate=5_000_000) as stage:
        with reluctant(stage) as client:
            client.sendall(get("/events/60000"))
            client.setblocking(False)

            def is_cut() -> bool:
                with contextlib.suppress(OSError):
                    client.recv(4000)
                return not stage.server.connections.open

            await until(is_cut, "the connection is cut")


def test_the_rate_of_a_reader_is_measured_in_windows() -> None:
    """Bytes that the system has accepted count only when the client has acknowledged them."""
    loop = asyncio.new_event_loop()
    here, there = socket.socketpair()
    writer = Writer(loop, 0.0)
    writer.transport = Waiting(here)
    rate: dict[str, Any] = {"rate": 100, "window": timedelta(seconds=30)}
    with here, there:
        assert not writer.is_too_slow(0.0, **rate)
        writer.written = Waiting.bytes = 10_000
        assert not writer.is_too_slow(1.0, **rate)  # a window begins
        Waiting.bytes -= 3_000  # as many as the rate demands
        assert not writer.is_too_slow(30.0, **rate)
        assert not writer.is_too_slow(31.0, **rate)
        Waiting.bytes -= 2_999
        assert not writer.is_too_slow(60.9, **rate)
        assert writer.is_too_slow(61.0, **rate)
        Waiting.bytes = 0
        assert not writer.is_too_slow(62.0, **rate)
        writer.written += 5_000
        Waiting.bytes = 5_000
        assert not writer.is_too_slow(300.0, **rate)  # nothing waited meanwhile
        here.send(b"x" * 4_000)
        Waiting.bytes -= 4_000  # the system still holds them
        assert writer.is_too_slow(330.0, **rate)
    loop.close()


class Waiting(asyncio.Transport):
    """A transport on which some bytes wait."""

    bytes = 0

    def __init__(self, socket_: socket.socket) -> None:
        super().__init__({"socket": socket_})

    def get_write_buffer_size(self) -> int:
        return Waiting.bytes


async def test_all_stalled_streams_together_are_bounded() -> None:
    async with echo_application(queued_bytes=3_000_000) as app:
        clients = [reluctant(app) for _ in range(6)]
        for client in clients:
            client.sendall(get("/events/1000000"))
        await app.routes.closed.wait()  # the longest stalled one
        await until(lambda: app.server.connections.queued_bytes <= 3_000_000, "enough of them are cut")
        assert await app.serves()
        for client in clients:
            client.close()
        await until(lambda: not app.server.connections.open, "all are closed")
        assert app.server.connections.queued_bytes == 0


async def test_a_large_response_that_nobody_takes_is_cut_too() -> None:
    async with echo_application(drain_window=TINY) as app:
        with reluctant(app) as client:
            client.sendall(post("/echo", b"x" * 1_000_000))
            await until(lambda: app.server.unsent_bytes > 0, "the response waits")
            await until(lambda: not app.server.connections.open, "the connection is cut")


async def test_a_reader_that_leaves_ends_its_stream() -> None:
    async with echo_application() as app:
        async with app.client() as client:
            await client.send(get("/events/10"))
            await client.reader.readuntil(b"data: ")
        await app.routes.closed.wait()
        await until(lambda: not app.server.connections.open, "the connection is closed")


async def test_silence_on_an_event_stream_is_filled() -> None:
    async with echo_application(ping=timedelta(milliseconds=10)) as app, app.client() as client:
        app.routes.proceed.clear()
        await client.send(get("/silent"))
        assert b": ping" in await asyncio.wait_for(client.reader.readuntil(b": ping\n\n"), 10)


# Stopping


async def test_stopping_closes_idle_connections_and_finishes_responses() -> None:
    async with echo_application() as app, app.client() as idle, app.client() as busy, app.client() as begun:
        assert (await idle.exchange(get("/hello"))).status == 200
        await begun.send(b"GET /hel")
        await busy.send(get("/slow") + get("/hello"))
        await app.routes.started.wait()
        stopping = asyncio.create_task(app.server.stop(timedelta(seconds=10)))
        assert await idle.ended()
        assert await begun.ended()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", app.port)
        app.routes.proceed.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"slow", "close")
        assert await busy.ended()
        await stopping


async def test_stopping_ends_what_waits_and_endless_streams() -> None:
    async with echo_application() as app, app.client() as waiting, app.client() as streaming:
        await waiting.send(get("/wait"))
        await streaming.send(get("/events/10"))
        await app.routes.started.wait()
        await streaming.reader.readuntil(b"data: ")
        await app.server.stop(timedelta(seconds=10))
        assert (await waiting.reply()).body == b"waited"
        assert (await streaming.reader.read()).endswith(b"\r\n0\r\n\r\n")
        assert app.routes.closed.is_set()


async def test_after_the_grace_responses_are_cut() -> None:
    async with echo_application() as app, app.client() as client:
        await client.send(get("/slow"))
        await app.routes.started.wait()
        await app.server.stop(TINY)
        assert await client.ended()
        assert not app.server.connections.open


@pytest.mark.parametrize("turns", range(6))
def test_a_stop_does_not_wait_for_a_connection_accepted_in_its_turn(turns: int) -> None:
    """The event loop reports an accepted connection some turns later; the stop may begin at each of them.

    The test runs on uvloop, as the processes do: asyncio itself loses a socket that it accepted in that turn.
    """
    uvloop.run(_stop_after_connecting(turns))


async def _stop_after_connecting(turns: int) -> None:
    async with echo_application() as app:
        with socket.create_connection(("127.0.0.1", app.port)) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            client.setblocking(False)
            async with asyncio.timeout(5):  # less than a silent connection may live
                await app.server.stop(timedelta(minutes=5))
                with contextlib.suppress(ConnectionResetError):  # it was never accepted
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            assert not app.server.connections.open


async def test_chunked_requests_and_streams_share_a_connection(app: EchoApplication) -> None:
    async with app.client() as client:
        for _ in range(3):
            assert (await client.exchange(chunked("/echo", b"abc"))).body == b"abc"
            assert (await client.exchange(get("/three"))).status == 200
