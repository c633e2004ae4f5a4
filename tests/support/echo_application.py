"""A small application behind the real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from penstock.errors import ServiceError
from penstock.tenants import scopes
from penstock.web.bearer import anyone
from penstock.web.dispatch import Dispatcher
from penstock.web.limits import Limits
from penstock.web.listening import listeners
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Response, json_response
from penstock.web.route import H, PathParameter, ResponseSpec, route, routes_of, websocket
from penstock.web.server import Server
from penstock.web.websocket import WebSocket
from tests.support.raw_http import Connection, get

OK = {200: ResponseSpec(description="It went well")}
SIZE = PathParameter(name="size", description="of each chunk, or of all")
MAX_BODY_BYTES = 1_000_000


def _route(method: str, path: str, **options: Any) -> Callable[[H], H]:
    """Declare a route that every key may use, named after the first segment of its path."""
    return route(method, path, name=path.split("/")[1], tag="t", scope=scopes.ANY, summary="s", responses=OK, **options)


class EchoRoutes:
    """Routes that return how the server parsed a request."""

    def __init__(self) -> None:
        self.started = asyncio.Event()  # a handler has begun to wait
        self.proceed = asyncio.Event()  # lets it continue
        self.left = asyncio.Event()  # a handler saw its client leave
        self.produced = 0  # chunks of streams
        self.closed = asyncio.Event()  # a stream was closed

    @_route("POST", "/echo", max_body_bytes=MAX_BODY_BYTES)
    async def echo(self, request: Request) -> Response:
        return Response(body=await request.content(), content_type=b"application/octet-stream")

    @_route("GET", "/hello")
    async def hello(self, _request: Request) -> Response:
        return Response(body=b"hello", content_type=b"text/plain")

    @_route("POST", "/unread")
    async def unread(self, _request: Request) -> Response:
        return Response(body=b"unread", content_type=b"text/plain")

    @_route("GET", "/head/{name}", path_parameters=(PathParameter(name="name", description="any"),))
    async def head(self, request: Request) -> Response:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.headers.items()}
        return json_response({"name": request.path("name"), "query": request.query_string.decode(), **headers})

    @_route("GET", "/wait")
    async def wait(self, request: Request) -> Response:
        self.started.set()
        request.left.add(self.left.set)
        await request.unless_left(self.proceed.wait())
        return Response(body=b"waited", content_type=b"text/plain")

    @_route("POST", "/held", max_body_bytes=100 * MAX_BODY_BYTES)
    async def held(self, request: Request) -> Response:
        self.started.set()
        await self.proceed.wait()
        return Response(body=b"%d" % len(await request.content()), content_type=b"text/plain")

    @_route("POST", "/late", max_body_bytes=MAX_BODY_BYTES)
    async def late(self, request: Request) -> Response:
        body = await request.content()
        await self.proceed.wait()
        return Response(body=b"%d" % len(body), content_type=b"text/plain")

    @_route("GET", "/slow")
    async def slow(self, _request: Request) -> Response:
        self.started.set()
        await self.proceed.wait()
        return Response(body=b"slow", content_type=b"text/plain")

    @_route("GET", "/broken")
    async def broken(self, _request: Request) -> Response:
        raise RuntimeError("the handler's own mistake")

    @_route("GET", "/events/{size}", path_parameters=(SIZE,))
    async def events(self, request: Request) -> EventStream:
        return EventStream(chunks=self._endless(int(request.path("size"))))

    @_route("GET", "/three")
    async def three(self, _request: Request) -> EventStream:
        return EventStream(chunks=self._three(), endless=False)

    @_route("GET", "/bytes/{size}", path_parameters=(SIZE,))
    async def byte_stream(self, request: Request) -> ByteStream:
        size = int(request.path("size"))
        return ByteStream(chunks=self._exactly(size), size=size, content_type=b"application/octet-stream")

    @_route("GET", "/short")
    async def short(self, _request: Request) -> ByteStream:
        return ByteStream(chunks=self._failing(), size=100, content_type=b"application/octet-stream")

    @_route("GET", "/silent")
    async def silent(self, _request: Request) -> EventStream:
        return EventStream(chunks=self._silent())

    @websocket("/socket", name="socket", tag="t", scope=scopes.ANY, summary="s", max_message_bytes=1000)
    async def socket(self, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if message == "end":
                return
            if message == "refuse":
                socket.begin_close(1008, "ü" * 200)
                continue
            if message in {"hold", "hold and end"}:
                self.started.set()
                await self.proceed.wait()
            if message == "hold and end":
                return
            await socket.send(message)

    async def _endless(self, size: int) -> AsyncIterator[bytes]:
        try:
            while True:
                self.produced += 1
                yield b"data: " + b"x" * size + b"\n\n"
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def _silent(self) -> AsyncIterator[bytes]:
        await self.proceed.wait()
        yield b"data: at last\n\n"

    async def _three(self) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"data: %d\n\n" % number

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size > 0:
            self.produced += 1
            chunk = b"y" * min(size, 100_000)
            size -= len(chunk)
            yield chunk

    async def _failing(self) -> AsyncIterator[bytes]:
        yield b"some"
        raise ServiceError("the source broke")


class EchoApplication:
    """A running server."""

    def __init__(self, server: Server, routes: EchoRoutes, port: int) -> None:
        self.server = server
        self.routes = routes
        self.port = port

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    async def serves(self) -> bool:
        """Return whether the server still responds to an ordinary request."""
        async with self.client() as client:
            return (await client.exchange(get("/hello"))).body == b"hello"


@asynccontextmanager
async def echo_application(**limits: Any) -> AsyncIterator[EchoApplication]:
    """Run the application on a server with changed limits."""
    routes = EchoRoutes()
    server = Server(Dispatcher(routes_of(routes), anyone), limits=Limits(**limits))
    (listener,) = listeners("127.0.0.1", 0, "PORT")
    port = listener.getsockname()[1]
    await server.start([listener])
    try:
        yield EchoApplication(server, routes, port)
    finally:
        await server.stop(timedelta(0))
