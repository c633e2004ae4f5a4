"""A client of Athena's protocol over WebSocket, and models for it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import WSMsgType

from tests.support.gateways import HttpCaller
from tests.support.waiting import within

# A Python model with sessions: it returns each part with its number. Some texts make it do other things.
ECHO = """
    import asyncio
    import os
    from collections.abc import AsyncIterator

    class Model:
        async def predict(self, words: str, greeting: str = "") -> str:
            return f"{greeting} {words}"

        async def session(self, parts: AsyncIterator[str], greeting: str = "") -> AsyncIterator[str]:
            number = 0
            async for part in parts:
                number += 1
                if part == "raise":
                    raise RuntimeError("the engine is unhappy")
                if part == "exit":
                    os._exit(9)
                if part == "flood":
                    while True:
                        yield "x" * 10_000
                if part == "wait":
                    await asyncio.Event().wait()
                yield f"{greeting}{number} {part}"
            yield "end"
"""


class Client:
    """One WebSocket of a client."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def send(self, message: Any) -> None:
        await self.socket.send_bytes(message) if isinstance(message, bytes) else await self.socket.send_str(
            message if isinstance(message, str) else msgspec.json.encode(message).decode()
        )

    async def next(self) -> dict[str, Any]:
        """Return the next message of the server."""
        received = await within(self.socket.receive(), 30)
        assert received.type is WSMsgType.TEXT, received
        found: dict[str, Any] = msgspec.json.decode(received.data)
        return found

    async def result(self) -> tuple[int, str]:
        """Return the status and the text of the next message, which must be a success."""
        message = await self.next()
        assert message["header"]["code"] == 0, message
        return message["header"]["status"], text_in(message)

    async def failure(self) -> tuple[int, str]:
        """Return the code and the message of an error, which must be next."""
        header = (await self.next())["header"]
        assert header["code"] != 0
        return header["code"], header["message"]

    async def closed(self) -> tuple[int | None, str]:
        """Return the code and the reason of the close, which must be next."""
        received = await within(self.socket.receive(), 30)
        assert received.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR}, received
        return self.socket.close_code, str(received.extra or "") if received.type is WSMsgType.CLOSE else ""

    async def rest(self) -> tuple[list[dict[str, Any]], tuple[int | None, str]]:
        """Return all messages until the close, with the code and the reason of the close."""
        messages: list[dict[str, Any]] = []
        while True:
            received = await within(self.socket.receive(), 30)
            if received.type is not WSMsgType.TEXT:
                return messages, (self.socket.close_code, str(received.extra or ""))
            messages.append(msgspec.json.decode(received.data))

    async def cut(self) -> None:
        """Lose the connection."""
        connection = self.socket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()


@asynccontextmanager
async def client(caller: HttpCaller, path: str, **options: Any) -> AsyncIterator[Client]:
    """Connect to a service."""
    async with caller.session.ws_connect(caller.address + path, **options) as socket:
        yield Client(socket)


def frame(
    text: str | None = None, status: int | None = None, /, *, name: str = "words", **header: Any
) -> dict[str, Any]:
    """Return a message with one text; its status stands in the payload."""
    message: dict[str, Any] = {}
    if header:
        message["header"] = header
    if text is not None:
        one: dict[str, Any] = {"text": base64.b64encode(text.encode()).decode(), "encoding": "utf8"}
        message["payload"] = {name: one if status is None else one | {"status": status}}
    return message


def text_in(message: dict[str, Any], name: str = "result") -> str:
    """Return the text of a result; empty where the message has none."""
    payload = message.get("payload") or {}
    return base64.b64decode(payload[name]["text"]).decode() if name in payload else ""
