"""HTTP servers behind models and providers: quick, slow, failing, limiting, malformed, cut off half-way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from penstock.supervisor.ports import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Seen:
    """The requests that a server got."""

    address: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)  # of the callers' connections
    left: asyncio.Event = field(default_factory=asyncio.Event)  # set when a caller leaves before its response

    @property
    def json(self) -> Any:
        """The last request."""
        return json.loads(self.bodies[-1])


@asynccontextmanager
async def running(served: web.Application | Handler, *, port: int = 0) -> AsyncIterator[str]:
    """Run an application, or one handler for every request; yield its address."""
    if isinstance(served, web.Application):
        application = served
    else:
        application = web.Application(client_max_size=2**28)
        application.router.add_route("*", "/{path:.*}", served)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Seen]:
    """Run a server that handles every request with ``handler``."""
    seen = Seen("")

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.bodies.append(await request.read())
        seen.headers.append(dict(request.headers))
        seen.paths.append(request.path_qs)
        assert request.transport is not None
        seen.ports.add(request.transport.get_extra_info("peername")[1])
        try:
            return await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            seen.left.set()
            raise

    async with running(handle) as seen.address:
        yield seen


def responding(value: Any, status: int = 200, **headers: str) -> Handler:
    """Respond with JSON."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.json_response(value, status=status, headers=headers)

    return respond


def sending(body: bytes, kind: str, status: int = 200) -> Handler:
    """Respond with these bytes."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, status=status)

    return respond


def streaming(pieces: list[bytes], kind: str = "text/event-stream", *, cut: bool = False) -> Handler:
    """Respond with pieces, each in a packet of its own; with ``cut``, break the connection off."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return respond


async def hanging(_: web.Request) -> web.StreamResponse:
    """Never respond."""
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[str]:
    """Run a server that writes the same bytes to every connection and closes it."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def closed_port() -> str:
    """Return an address that nothing listens on."""
    return f"http://127.0.0.1:{free_port()}"
