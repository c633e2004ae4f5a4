"""Requests that the server refuses: too large, too slow, not HTTP, or made to be read in two ways."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import Connection, get, post
from tests.support.waiting import until

TINY = timedelta(milliseconds=50)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (get("/hello", "X: " + "y" * 70_000), "head_too_large"),
        (get("/hello", *["X: y"] * 101), "head_too_large"),
        (get("/hello", *[f"X-{number}: y" for number in range(5000)]), "head_too_large"),
        (get("/" + "a" * 8193), "target_too_long"),
        (get("/hello?" + "a" * 9000), "target_too_long"),
        (b"GET /" + b"a" * 100_000, "target_too_long"),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, "head_too_large"),
        (b"GET /hello HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, "head_too_large"),
    ],
)
async def test_a_head_that_is_too_large_is_refused_and_its_connection_closed(
    app: EchoApplication, sent: bytes, code: str
) -> None:
    async with app.client() as client:
        reply = await client.exchange(sent)
        assert reply.code == code
        assert reply.status == (414 if code == "target_too_long" else 431)
        assert reply.headers["connection"] == "close"
        client.writer.write_eof()
        assert await client.ended()
    assert await app.serves()


async def test_heads_up_to_the_limits_are_served(app: EchoApplication) -> None:
    async with app.client() as client:
        assert (await client.exchange(get("/hello", *["X: y"] * 99))).status == 200
        assert (await client.exchange(get("/hello?" + "a" * (8192 - 7)))).status == 200
        assert (await client.exchange(get("/hello", "X: " + "y" * 65_000))).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"get /hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"GET /hello HTTP/1.1\nHost: x\n\n",
        b"GET /hello HTTP/1.1\r\n\r\n",  # no Host
        b"GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /hel lo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\n\r\n",
        b"GET /hello HTTP/1.2\r\nHost: x\r\n\r\n",
    ],
)
async def test_bytes_that_are_not_http_are_refused_with_400(app: EchoApplication, sent: bytes) -> None:
    async with app.client() as client:
        assert (await client.exchange(sent)).code == "malformed_request"
        client.writer.write_eof()
        assert await client.ended()
    assert await app.serves()


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"ICE/1.0"])
async def test_other_http_versions_are_refused_with_505(app: EchoApplication, version: bytes) -> None:
    async with app.client() as client:
        reply = await client.exchange(b"GET /hello " + version + b"\r\nHost: x\r\n\r\n")
        assert reply.status in {400, 505}


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 5"],
        ["Content-Length:"],
        ["Content-Length: 99999999999999999999"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked\x0b"],
    ],
)
async def test_a_body_whose_length_is_in_doubt_is_refused(app: EchoApplication, headers: list[str]) -> None:
    smuggled = get("/hello")
    head = "\r\n".join(["POST /echo HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")
    async with app.client() as client:
        reply = await client.exchange(head + b"0\r\n\r\n" + smuggled)
        assert reply.status in {400, 501}
        assert reply.headers["connection"] == "close"
        client.writer.write_eof()
        assert await client.ended()


async def test_http_1_0_has_no_chunked_bodies(app: EchoApplication) -> None:
    async with app.client() as client:
        sent = b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert (await client.exchange(sent)).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nabc",
        b"3;" + b"x" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
        b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
        b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 3000,
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n" + b"X: " + b"y" * 9000 + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"\r\n",
    ],
)
async def test_a_chunked_body_that_is_not_sound_is_400(app: EchoApplication, body: bytes) -> None:
    async with app.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert (await client.reply()).code == "malformed_request"
        client.writer.write_eof()
        assert await client.ended()


async def test_a_head_must_arrive_in_time() -> None:
    async with echo_application(head_timeout=TINY) as app, app.client() as silent, app.client() as slow:
        await slow.send(b"GET /hel")
        assert (await slow.reply()).code == "request_timeout"
        assert await silent.ended()


async def test_a_head_that_comes_byte_by_byte_has_the_same_time() -> None:
    async with echo_application(head_timeout=TINY) as app, app.client() as client:
        reply = asyncio.create_task(client.reply())
        try:
            while not reply.done():
                client.writer.write(b"G")
                await asyncio.sleep(0.001)
        except ConnectionError:
            pass
        assert (await reply).code in {"request_timeout", "malformed_request"}


async def test_an_idle_connection_is_closed() -> None:
    async with echo_application(idle_timeout=TINY) as app, app.client() as client:
        assert (await client.exchange(get("/hello"))).status == 200
        assert await client.ended()


async def test_a_body_has_a_minimum_rate() -> None:
    async with echo_application(body_window=TINY, body_rate=1_000_000) as app, app.client() as client:
        reply = await client.exchange(post("/echo", b"x" * 100_000)[:-1])
        assert reply.code == "request_timeout"
        assert reply.headers["connection"] == "close"


async def test_time_in_which_the_client_waits_for_the_handler_does_not_count() -> None:
    async with echo_application(body_window=TINY, body_rate=1_000_000) as app, app.client() as client:
        await client.send(get("/slow"))
        await app.routes.started.wait()
        async with app.client() as other:  # which outlasts the window
            assert (await other.exchange(post("/echo", b"x" * 100)[:-1])).code == "request_timeout"
        app.routes.proceed.set()
        assert (await client.reply()).body == b"slow"


async def test_the_longest_idle_connection_makes_room_for_a_new_one() -> None:
    async with (
        echo_application(idle_connections_per_address=3) as app,
        app.client() as first,
        app.client() as second,
        app.client() as third,
    ):
        for client in (first, second, third, first):  # so the second is idle for longest
            assert (await client.exchange(get("/hello"))).status == 200
        assert await app.serves()
        assert await second.ended()
        assert (await first.exchange(get("/hello"))).status == 200


async def test_connections_in_use_are_never_closed_for_new_ones() -> None:
    async with echo_application(idle_connections_per_address=1) as app, app.client() as busy:
        await busy.send(get("/slow"))
        await app.routes.started.wait()
        for _ in range(5):
            assert await app.serves()
        app.routes.proceed.set()
        assert (await busy.reply()).body == b"slow"


async def test_connections_in_all_are_bounded() -> None:
    async with echo_application(connections=1) as app, app.client() as busy:
        await busy.send(get("/slow"))
        await app.routes.started.wait()
        async with app.client() as refused:
            assert await refused.ended()
        app.routes.proceed.set()
        assert (await busy.reply()).body == b"slow"


async def test_pipelined_bytes_are_not_read_without_bound() -> None:
    async with echo_application() as app, app.client() as client:
        await client.send(get("/slow"))
        await app.routes.started.wait()
        client.writer.write(get("/hello") * 200_000)  # 6 MB of requests
        await until(lambda: app.server.held_back == 1, "the server reads no more")
        assert app.server.waiting_bytes < 500_000


async def test_a_body_that_no_handler_reads_is_not_read_without_bound() -> None:
    async with echo_application() as app, app.client() as client:
        client.writer.write(post("/held", b"x" * 20_000_000))
        await app.routes.started.wait()
        await until(lambda: app.server.held_back == 1, "the server reads no more")
        assert app.server.waiting_bytes < 1_000_000
        app.routes.proceed.set()
        assert (await client.reply()).body == b"20000000"


async def test_pipelined_bytes_stay_bounded_while_requests_are_served() -> None:
    """Each request that is served makes room for its own bytes, not for another read of the socket."""
    async with echo_application() as app, app.client() as client:
        client.writer.write(get("/hello") * 200_000)  # 6 MB
        for _ in range(500):
            assert (await client.reply()).body == b"hello"
            assert app.server.waiting_bytes < 1_000_000


async def test_the_rest_of_an_unread_body_is_dropped_although_its_buffer_is_full() -> None:
    async with echo_application() as app, app.client() as client:
        await _leave_body_unread(app, client)
        await client.send(*[b"x" * 1000] * 20)
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_a_stop_does_not_wait_for_the_rest_of_an_unread_body() -> None:
    async with echo_application(linger=timedelta(milliseconds=50)) as app, app.client() as client:
        await _leave_body_unread(app, client)
        async with asyncio.timeout(10):
            await app.server.stop(timedelta(minutes=5))


async def _leave_body_unread(app: EchoApplication, client: Connection) -> None:
    """Send a request except for the last 20 kB of its body; return once its response has arrived."""
    await client.send(get("/slow", "Content-Length: 300000"))
    client.writer.write(b"x" * 280_000)
    await until(lambda: app.server.held_back == 1, "the buffer of the body is full")
    app.routes.proceed.set()
    assert (await client.reply()).body == b"slow"
