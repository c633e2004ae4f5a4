"""Calls by Athena's protocol: one over HTTP, and a session over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

RATE = 16000  # samples of sound in a second, of 2 bytes
PART_BYTES = 8000  # a quarter of a second of sound


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A result of the session: the words so far, and how long after the first part they came."""

    seconds: float
    text: str


async def call(session: aiohttp.ClientSession, service: str, data: Mapping[str, Any], *, result: str) -> dict[str, Any]:
    """Send data objects to a service. Return the payload of its response."""
    message = {
        "header": {"app_id": "demo", "status": 3},
        "parameter": {service: {result: {"encoding": "utf8", "format": "json"}}},
        "payload": data,
    }
    async with session.post(f"/v1/private/{service}", json=message) as response:
        reply: dict[str, Any] = await response.json()
    _check(service, reply)
    payload: dict[str, Any] = reply["payload"]
    return payload


def picture(data: bytes) -> dict[str, Any]:
    return {"img": {"image": base64.b64encode(data).decode(), "encoding": "jpg", "status": 3}}


def lines(*texts: str) -> dict[str, Any]:
    return {"text": {"text": base64.b64encode("\n".join(texts).encode()).decode(), "encoding": "utf8", "status": 3}}


async def listen(session: aiohttp.ClientSession, sound: bytes) -> AsyncIterator[Heard]:
    """Send a recording as a microphone would, a part each quarter of a second, and yield each result when it comes."""
    async with session.ws_connect("/v1/private/speech") as socket:
        begun = time.perf_counter()
        speaking = asyncio.create_task(_speak(socket, sound))
        try:
            async for received in socket:
                reply = msgspec.json.decode(received.data)
                _check("speech", reply)
                if "payload" in reply:
                    yield Heard(seconds=time.perf_counter() - begun, text=reply["payload"]["words"]["text"]["text"])
            await speaking
        finally:
            speaking.cancel()


async def _speak(socket: aiohttp.ClientWebSocketResponse, sound: bytes) -> None:
    pieces = [sound[at : at + PART_BYTES] for at in range(0, len(sound), PART_BYTES)]
    for number, piece in enumerate(pieces):
        status = 0 if number == 0 else 2 if number == len(pieces) - 1 else 1
        audio = {"audio": base64.b64encode(piece).decode(), "encoding": "raw", "sample_rate": RATE, "status": status}
        message = {"header": {"app_id": "demo", "status": status}, "payload": {"audio": audio}}
        await socket.send_bytes(msgspec.json.encode(message))
        await asyncio.sleep(PART_BYTES / (2 * RATE))


def _check(service: str, reply: Mapping[str, Any]) -> None:
    if reply["header"]["code"]:
        raise SystemExit(f"{service} failed: {reply['header']}")
