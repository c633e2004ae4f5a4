"""Routes that are WebSockets, spoken to by a client of another library."""

from __future__ import annotations

import aiohttp
from aiohttp import WSMsgType

from tests.web.stage import Stage, get, serving


async def test_messages_go_both_ways_until_the_handler_returns(stage: Stage) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{stage.port}/socket") as socket,
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


async def test_messages_are_bounded(stage: Stage) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{stage.port}/socket") as socket,
    ):
        await socket.send_bytes(b"x" * 1001)
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1009


async def test_messages_may_come_with_the_handshake_and_in_fragments(stage: Stage) -> None:
    handshake = get(
        "/socket",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    mask = b"\x00\x00\x00\x00"
    fragments = b"\x01\x82" + mask + b"ab" + b"\x80\x82" + mask + b"cd"
    async with stage.client() as client:
        await client.send(handshake + fragments[:5], fragments[5:])
        assert (await client.reply()).status == 101
        assert await client.reader.readexactly(6) == b"\x81\x04abcd"


async def test_a_plain_request_for_a_socket_is_426(stage: Stage) -> None:
    async with stage.client() as client:
        reply = await client.exchange(get("/socket"))
        assert (reply.status, reply.code, reply.headers["upgrade"]) == (426, "upgrade_required", "websocket")
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_a_handshake_that_is_not_sound_is_refused(stage: Stage) -> None:
    async with stage.client() as client:
        reply = await client.exchange(get("/socket", "Connection: Upgrade", "Upgrade: websocket"))
        assert reply.status in {400, 426}


async def test_an_upgrade_to_anything_else_is_ignored(stage: Stage) -> None:
    async with stage.client() as client:
        assert (await client.exchange(get("/hello", "Connection: Upgrade", "Upgrade: h2c"))).body == b"hello"
        assert (await client.exchange(get("/hello"))).body == b"hello"


async def test_stopping_closes_sockets() -> None:
    async with (
        serving() as stage,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{stage.port}/socket") as socket,
    ):
        await socket.send_str("text")
        assert await socket.receive_str() == "text"
        stage.server.stopping.set()
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1001
