"""The server's handling of requests: heads, bodies in both codings, keep-alive, pipelining, HEAD, 100 Continue."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import chunked, get, post


async def test_a_request_reaches_its_handler_as_it_was_sent(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/head/a%20b%2Fc?x=1&y=%20", "X-One: 1", "x-TWO:  spaced  ", "X-One: 2"))
        head = msgspec.json.decode(reply.body)
        assert head == {"name": "a b/c", "query": "x=1&y=%20", "host": "x", "x-one": "1", "x-two": "spaced"}


async def test_a_connection_serves_many_requests(app: EchoApplication) -> None:
    async with app.client() as client:
        for number in range(5):
            reply = await client.exchange(post("/echo", b"%d" % number))
            assert (reply.status, reply.body) == (200, b"%d" % number)
            assert "connection" not in reply.headers


@pytest.mark.parametrize("request_", [get("/hello", "Connection: close"), b"GET /hello HTTP/1.0\r\n\r\n"])
async def test_a_connection_closes_when_the_client_requests_it(app: EchoApplication, request_: bytes) -> None:
    async with app.client() as client:
        reply = await client.exchange(request_)
        assert (reply.body, reply.headers["connection"]) == (b"hello", "close")
        assert await client.ended()


async def test_pipelined_requests_are_served_in_order(app: EchoApplication) -> None:
    bodies = [b"%d" % number * 100 for number in range(50)]
    requests = b"".join(
        post("/echo", body) if number % 2 else chunked("/echo", body[:7], body[7:])
        for number, body in enumerate(bodies)
    )
    async with app.client() as client:
        await client.send(requests)
        assert [(await client.reply()).body for _ in bodies] == bodies


async def test_a_body_may_arrive_in_pieces_of_any_size(app: EchoApplication) -> None:
    for whole in (post("/echo", b"abcdef"), chunked("/echo", b"abc", b"d", b"ef", trailers=b"X-Sum: 1\r\n")):
        async with app.client() as client:
            reply = await client.exchange(*(whole[index : index + 1] for index in range(len(whole))))
            assert reply.body == b"abcdef"


async def test_large_bodies_pass_in_both_directions(app: EchoApplication) -> None:
    body = bytes(range(256)) * 3900
    async with app.client() as client:
        assert (await client.exchange(post("/echo", body))).body == body
        assert (await client.exchange(chunked("/echo", body[:500_000], body[500_000:]))).body == body


async def test_line_breaks_before_a_request_are_ignored(app: EchoApplication) -> None:
    async with app.client() as client:
        assert (await client.exchange(b"\r\n", b"\r\n" + get("/hello"))).body == b"hello"
        assert (await client.exchange(b"\r\n\r\n" + get("/hello"))).body == b"hello"


async def test_head_requests_get_the_head_without_a_body(app: EchoApplication) -> None:
    async with app.client() as client:
        for path in ("/hello", "/bytes/70000", "/three"):
            await client.send(get(path).replace(b"GET", b"HEAD"))
            reply = await client.reply(to_head=True)
            assert reply.status == 200
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_continue_is_sent_when_the_handler_reads_the_body(app: EchoApplication) -> None:
    whole = post("/echo", b"abc", "Expect: 100-continue")
    async with app.client() as client:
        assert (await client.exchange(whole[:-3])).status == 100
        assert (await client.exchange(b"abc")).body == b"abc"


async def test_continue_is_not_sent_for_an_unread_body(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(post("/unread", b"abc", "Expect: 100-continue")[:-3])
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.ended()


async def test_a_small_unread_body_is_dropped_and_the_connection_kept(app: EchoApplication) -> None:
    async with app.client() as client:
        whole = post("/unread", b"x" * 1000)
        assert (await client.exchange(whole[:-500])).body == b"unread"
        assert (await client.exchange(whole[-500:] + get("/hello"))).body == b"hello"


async def test_after_a_large_unread_body_the_response_is_sent_and_the_connection_closed(app: EchoApplication) -> None:
    async with app.client() as client:
        await client.send(post("/unread", b"x" * 3_000_000))
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (b"unread", "close")


async def test_a_body_larger_than_its_route_allows_is_refused(app: EchoApplication) -> None:
    declared = post("/echo", b"x" * 1_000_001)
    for sent in (declared, chunked("/echo", *[b"x" * 100_000] * 11)):
        async with app.client() as client:
            assert (await client.exchange(sent)).code == "too_large"


async def test_a_client_that_half_closes_still_gets_its_responses(app: EchoApplication) -> None:
    async with app.client() as client:
        await client.send(get("/hello") + get("/hello"))
        client.writer.write_eof()
        assert [(await client.reply()).body for _ in range(2)] == [b"hello", b"hello"]
        assert await client.ended()


async def test_a_waiting_handler_is_notified_when_its_client_disconnects() -> None:
    async with echo_application() as app:
        async with app.client() as client:
            await client.send(get("/wait"))
            await app.routes.started.wait()
        await app.routes.left.wait()
        assert await app.serves()


async def test_the_server_keeps_serving_after_a_client_disconnects_inside_a_body() -> None:
    async with echo_application() as app:
        async with app.client() as client:
            await client.send(post("/echo", b"x" * 1000)[:-1])
        assert await app.serves()


async def test_a_request_target_may_be_an_absolute_url(app: EchoApplication) -> None:
    async with app.client() as client:
        assert (await client.exchange(get("http://x:1/hello"))).body == b"hello"
        assert (await client.exchange(get("http://x"))).code == "not_found"
        assert (await client.exchange(get("*"))).code == "not_found"
