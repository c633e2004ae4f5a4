"""The client against a server that speaks the protocol, and one that never stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web

from penstock.failures import CallFailed
from penstock.openai.client import Client
from penstock.openai.streams import ChatStream
from penstock.outbound.peer import Peer
from tests.support.http_servers import serving

KEY = "sk-a-secret-key-1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def opened(handler: Handler, max_bytes: int = 2**20) -> AsyncIterator[tuple[Client, Peer]]:
    """Yield a client of a server that handles every request in this way."""
    async with serving(handler) as seen:
        peer = Peer(
            headers={}, timeout_seconds=20, secrets=[KEY], credentials=[KEY], name="provider", max_bytes=max_bytes
        )
        try:
            yield Client(peer, lambda path: f"{seen.address}/v1{path}", {"Authorization": f"Bearer {KEY}"}), peer
        finally:
            await peer.close()


async def test_requests_carry_our_headers_and_a_key() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        await request.read()
        return web.json_response({"choices": [{"message": {"content": "Hi"}}]})

    async with opened(handler) as (client, _):
        assert (await client.complete(b"{}", key="k-1")).choices[0].message.text == "Hi"
        await client.complete(b"{}", key="")
    first, second = seen
    assert first.path == "/v1/chat/completions"
    assert (first.headers["Authorization"], first.headers["Idempotency-Key"]) == (f"Bearer {KEY}", "k-1")
    assert "Idempotency-Key" not in second.headers


async def test_a_response_that_echoes_the_key_loses_it() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": f"it was {KEY}"}}], "usage": {"k": KEY}})

    async with opened(handler) as (client, _):
        found = await client.complete(b"{}", key="")
    assert found.choices[0].message.text == "it was ******"
    assert KEY not in str(found)


async def test_a_stream_without_an_end_is_bounded_in_bytes() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        line = b"data: " + msgspec.json.encode({"choices": [{"delta": {"content": "x" * 1000}}]}) + b"\n\n"
        try:
            while True:
                await response.write(line)
        finally:
            left.set()

    async with opened(handler, max_bytes=100_000) as (client, peer):
        stream = ChatStream(peer.excerpt)
        with pytest.raises(CallFailed, match="response exceeds 100000 bytes"):
            async for _ in client.stream({}, key="", into=stream):
                pass
        assert len(stream.content) <= 100_000
        async with asyncio.timeout(10):
            await left.wait()


async def test_a_whole_response_is_bounded_with_and_without_its_length_and_compressed() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = msgspec.json.encode({"choices": [{"message": {"content": "x" * 200_000}}]})
        how = request.headers["Idempotency-Key"]
        if how == "length":
            return web.Response(body=body)
        response = web.StreamResponse()
        if how == "gzip":
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        await response.write(body)
        return response

    async with opened(handler, max_bytes=100_000) as (client, _):
        for how in ("length", "chunks", "gzip"):
            with pytest.raises(CallFailed, match="response exceeds 100000 bytes"):
                await client.complete(b"{}", key=how)


async def test_an_error_in_a_stream_that_echoes_the_key_masks_it() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"error": {"message": "bad key ' + KEY.encode() + b'"}}\n\n')
        return response

    async with opened(handler) as (client, peer):
        with pytest.raises(CallFailed, match=r"^the provider failed: bad key \*\*\*\*\*\*$"):
            async for _ in client.stream({}, key="", into=ChatStream(peer.excerpt)):
                pass
