"""A connection that sends any bytes, and the bytes of common requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole response."""

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


class Connection:
    """A connection that sends any bytes."""

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
        """Return the next response."""
        return await asyncio.wait_for(self._reply(to_head=to_head), 60)

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
        """Return the chunks of a body whose head was read."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ended(self) -> bool:
        """Wait until the server has closed the connection; return whether nothing more came before that."""
        try:
            return await asyncio.wait_for(self.reader.read(), 60) == b""
        except ConnectionResetError:
            return True

    async def statuses(self) -> list[int]:
        """Return the status of each response until the server closes, which it does between two of them."""
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


def get(path: str, *headers: str) -> bytes:
    """Return the bytes of a GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a POST with a body of known length."""
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode("latin-1") + body


def chunked(path: str, *chunks: bytes, trailers: bytes = b"") -> bytes:
    """Return the bytes of a POST with a chunked body."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"
