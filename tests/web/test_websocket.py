"""Routes that are WebSockets, spoken to by a client of another library."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.support.echo_application import EchoApplication, echo_application
from tests.support.raw_http import get
from tests.support.waiting import until

HANDSHAKE = get(
    "/socket",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
MASK = b"\x00\x00\x00\x00"


async def test_messages_go_both_ways_until_the_handler_returns(app: EchoApplication) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{app.port}/socket") as socket,
    ):
        for message in ("text", "ü" * 400, ""):
            await socket.send_str(message)
            assert await socket.receive_str() == message
        await socket.send_bytes(b"\x00\xff" * 500)
        assert await socket.receive_bytes() == b"\x00\xff" * 500
        await socket.ping()
        await socket.send_str("end")
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1000


async def test_messages_are_bounded(app: EchoApplication) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{app.port}/socket") as socket,
    ):
        await socket.send_bytes(b"x" * 1001)
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1009


async def test_a_handler_that_closes_receives_no_more_and_its_reason_is_cut_to_a_frame(app: EchoApplication) -> None:
    async with app.client() as client:
        await client.send(HANDSHAKE + text(b"refuse") + text(b"more"))
        assert (await client.reply()).status == 101
        assert await client.reader.readexactly(2 + 2 + 122) == b"\x88\x7c\x03\xf0" + "ü".encode() * 61
        client.writer.write(b"\x88\x82" + MASK + b"\x03\xf0")
        assert await client.ended()


async def test_messages_may_come_with_the_handshake_and_in_fragments(app: EchoApplication) -> None:
    fragments = b"\x01\x82" + MASK + b"ab" + b"\x80\x82" + MASK + b"cd"
    async with app.client() as client:
        await client.send(HANDSHAKE + fragments[:5], fragments[5:])
        assert (await client.reply()).status == 101
        assert await client.reader.readexactly(6) == b"\x81\x04abcd"


async def test_a_plain_request_for_a_socket_is_426(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/socket"))
        assert (reply.status, reply.code, reply.headers["upgrade"]) == (426, "upgrade_required", "websocket")
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_an_invalid_handshake_is_refused(app: EchoApplication) -> None:
    async with app.client() as client:
        reply = await client.exchange(get("/socket", "Connection: Upgrade", "Upgrade: websocket"))
        assert reply.status in {400, 426}


async def test_an_upgrade_to_anything_else_is_ignored(app: EchoApplication) -> None:
    async with app.client() as client:
        assert (await client.exchange(get("/hello", "Connection: Upgrade", "Upgrade: h2c"))).body == b"hello"
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_stopping_closes_sockets() -> None:
    async with (
        echo_application() as app,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{app.port}/socket") as socket,
    ):
        await socket.send_str("text")
        assert await socket.receive_str() == "text"
        app.server.stopping.set()
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1001


async def test_an_endless_stream_of_non_ascii_text_is_read(app: EchoApplication) -> None:
    """Received and read text are both counted in bytes, so that reading always resumes."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{app.port}/socket") as socket,
        asyncio.timeout(30),
    ):
        for _ in range(1500):
            await socket.send_str("ü" * 400)
            assert await socket.receive_str() == "ü" * 400


@pytest.mark.parametrize(
    "frame", [b"\x81\x80" + MASK, b"\x89\xfd" + MASK + b"p" * 125], ids=["empty messages", "pings"]
)
async def test_a_flood_of_small_frames_holds_the_socket_back(frame: bytes) -> None:
    """This holds for empty messages, for frames that need no handler, and if the client reads nothing."""
    async with echo_application() as app, app.client(limit=1000) as client:
        await client.send(HANDSHAKE + text(b"hold"))
        await app.routes.started.wait()
        client.writer.write(frame * (24_000_000 // len(frame)))
        await until(lambda: app.server.held_back == 1, "the server reads no more", seconds=30)
        assert app.server.unsent_bytes < 1_000_000
        client.writer.transport.abort()


async def test_a_close_is_confirmed_although_messages_are_held_back() -> None:
    """The client's confirmation comes behind messages that the handler has not read and never will."""
    async with echo_application() as app, app.client() as client:
        await client.send(HANDSHAKE + text(b"hold and end"))
        assert (await client.reply()).status == 101
        await app.routes.started.wait()
        client.writer.write(text(b"m" * 125) * 3_000)  # which count as 570 kB
        await until(lambda: app.server.held_back == 1, "the server reads no more")
        app.routes.proceed.set()
        async with asyncio.timeout(4):  # less than the server waits for a confirmation
            assert await client.reader.readexactly(4) == b"\x88\x02\x03\xe8"  # 1000
            client.writer.write(b"\x88\x82" + MASK + b"\x03\xe8")
            assert await client.ended()


async def test_a_message_in_too_many_fragments_is_refused(app: EchoApplication) -> None:
    async with app.client() as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101
        await client.send(b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 10_000)
        assert (await client.reader.readexactly(4))[2:] == b"\x03\xf1"  # 1009


def text(message: bytes) -> bytes:
    """Return a frame with a short text."""
    return b"\x81%c" % (0x80 + len(message)) + MASK + message
