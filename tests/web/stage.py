"""The stage of the server's tests: a small application behind the real server, and a client that sends any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from penstock.errors import ServiceError
from penstock.web.bearer import anyone
from penstock.web.dispatch import Dispatcher
from penstock.web.limits import Limits
from penstock.web.listening import listeners
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route, routes_of, websocket
from penstock.web.server import Server
from penstock.web.websocket import WebSocket

OK = {200: ResponseSpec(description="It went well")}
SIZE = PathParameter(name="size", description="of each chunk, or of all")
MAX_BODY_BYTES = 1_000_000


class Echo:
    """Routes that say what the server made of a request."""

    def __init__(self) -> None:
        self.started = asyncio.Event()  # a handler has begun to wait
        self.proceed = asyncio.Event()  # lets it go on
        self.left = asyncio.Event()  # a handler saw its client leave
        self.produced = 0  # chunks of streams
        self.closed = asyncio.Event()  # a stream was closed

    @route("POST", "/echo", name="echo", tag="t", summary="s", responses=OK, max_body_bytes=MAX_BODY_BYTES)
    async def echo(self, request: Request) -> Response:
        return Response(body=await request.content(), content_type=b"application/octet-stream")

    @route("GET", "/hello", name="hello", tag="t", summary="s", responses=OK)
    async def hello(self, _request: Request) -> Response:
        return Response(body=b"hello", content_type=b"text/plain")

    @route("POST", "/unread", name="unread", tag="t", summary="s", responses=OK)
    async def unread(self, _request: Request) -> Response:
        return Response(body=b"unread", content_type=b"text/plain")

    @route(
        "GET",
        "/head/{name}",
        name="head",
        tag="t",
        summary="s",
        path_parameters=(PathParameter(name="name", description="any"),),
        responses=OK,
    )
    async def head(self, request: Request) -> Response:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.headers.items()}
        return json_response({"name": request.path("name"), "query": request.query_string.decode(), **headers})

    @route("GET", "/wait", name="wait", tag="t", summary="s", responses=OK)
    async def wait(self, request: Request) -> Response:
        self.started.set()
        request.left.add(self.left.set)
        await request.unless_left(self.proceed.wait())
        return Response(body=b"waited", content_type=b"text/plain")

    @route("POST", "/held", name="held", tag="t", summary="s", responses=OK, max_body_bytes=100 * MAX_BODY_BYTES)
    async def held(self, request: Request) -> Response:
        self.started.set()
        await self.proceed.wait()
        return Response(body=b"%d" % len(await request.content()), content_type=b"text/plain")

    @route("GET", "/slow", name="slow", tag="t", summary="s", responses=OK)
    async def slow(self, _request: Request) -> Response:
        self.started.set()
        await self.proceed.wait()
        return Response(body=b"slow", content_type=b"text/plain")

    @route("GET", "/broken", name="broken", tag="t", summary="s", responses=OK)
    async def broken(self, _request: Request) -> Response:
        raise RuntimeError("the handler's own mistake")

    @route("GET", "/events/{size}", name="events", tag="t", summary="s", path_parameters=(SIZE,), responses=OK)
    async def events(self, request: Request) -> EventStream:
        return EventStream(chunks=self._endless(int(request.path("size"))))

    @route("GET", "/three", name="three", tag="t", summary="s", responses=OK)
    async def three(self, _request: Request) -> EventStream:
        return EventStream(chunks=self._three(), endless=False)

    @route("GET", "/bytes/{size}", name="bytes", tag="t", summary="s", path_parameters=(SIZE,), responses=OK)
    async def byte_stream(self, request: Request) -> ByteStream:
        size = int(request.path("size"))
        return ByteStream(chunks=self._exactly(size), size=size, content_type=b"application/octet-stream")

    @route("GET", "/short", name="short", tag="t", summary="s", responses=OK)
    async def short(self, _request: Request) -> ByteStream:
        return ByteStream(chunks=self._failing(), size=100, content_type=b"application/octet-stream")

    @route("GET", "/silent", name="silent", tag="t", summary="s", responses=OK)
    async def silent(self, _request: Request) -> EventStream:
        return EventStream(chunks=self._silent())

    @websocket("/socket", name="socket", tag="t", summary="s", max_message_bytes=1000)
    async def socket(self, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if message == "end":
                return
            if message == "hold":
                self.started.set()
                await self.proceed.wait()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem: dict[str, Any] = msgspec.json.decode(self.body)
        assert problem["status"] == self.status
        return str(problem["code"])


class Client:
    """One connection that sends what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next response."""
        return await asyncio.wait_for(self._reply(to_head=to_head), 10)

    async def _reply(self, *, to_head: bool) -> Reply:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        if to_head or status in {100, 101, 204}:
            body = b""
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self.chunks()])
        else:
            body = await self.reader.read()
        return Reply(status=status, headers=headers, body=body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a body whose head was read."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ended(self) -> bool:
        """Wait until the server has closed; whether nothing more came before that."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        except ConnectionResetError:
            return True

    async def statuses(self) -> list[int]:
        """The status of each response until the server closes, which it does between two of them."""
        found: list[int] = []
        while True:
            try:
                found.append((await self.reply()).status)
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise
                return found

    async def exchange(self, *pieces: bytes) -> Reply:
        await self.send(*pieces)
        return await self.reply()


class Stage:
    """A running server."""

    def __init__(self, server: Server, echo: Echo, port: int) -> None:
        self.server = server
        self.echo = echo
        self.port = port

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def serves(self) -> bool:
        """Whether an honest request is served."""
        async with self.client() as client:
            return (await client.exchange(get("/hello"))).body == b"hello"


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Stage]:
    """A server with changed limits."""
    echo = Echo()
    server = Server(Dispatcher(routes_of(echo), anyone), limits=Limits(**limits))
    (listener,) = listeners("127.0.0.1", 0, "PORT")
    port = listener.getsockname()[1]
    await server.start([listener])
    try:
        yield Stage(server, echo, port)
    finally:
        await server.stop(timedelta(0))


def get(path: str, *headers: str) -> bytes:
    """The bytes of a GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a POST with a body of known length."""
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode("latin-1") + body


def chunked(path: str, *chunks: bytes, trailers: bytes = b"") -> bytes:
    """The bytes of a POST with a chunked body."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"
