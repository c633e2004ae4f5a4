"""The load generator, a process of its own: ``python -m benchmarks.serving.load PLAN``, where PLAN is JSON.

It uses raw HTTP/1.1 on keep-alive connections with as little work per response as possible, because it shares the cores
with the measured server. It prints its results as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec import Struct


class Plan(Struct, kw_only=True):
    """The requests to send, and how often."""

    host: str = "127.0.0.1"
    port: int
    path: str
    headers: dict[str, str] = {}
    body: str = ""  # text, or the path of a file as @PATH
    connections: int = 1
    seconds: float = 3.0
    streams: int = 0  # the number of streams, one after the other, whose chunks are counted; they replace timed calls


class Found(Struct, kw_only=True):
    """The results of a run."""

    responses: int  # chunks, if these are streams
    refused: int = 0  # responses whose status is not 200
    different: int = 0  # responses that are unlike the first
    first: str = ""  # the first response
    seconds: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    delays_ms: list[float] = []  # of each stream: from the making of its first chunk to the arrival
    own_cpu_us: float = 0.0  # of this process, for each response


@dataclass(slots=True)
class Tally:
    """The counts of all connections."""

    seconds: list[float] = field(default_factory=list)  # of each good response
    refused: int = 0
    different: int = 0
    first: bytes | None = None


def request(plan: Plan) -> bytes:
    """Return the bytes of the request."""
    body = Path(plan.body[1:]).read_bytes() if plan.body.startswith("@") else plan.body.encode()
    headers = {"Host": f"{plan.host}:{plan.port}", "Content-Type": "application/json"} | plan.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {plan.path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One caller: a request, its response, the next request."""

    def __init__(self, data: bytes, until: float, tally: Tally) -> None:
        self._request = data
        self._until = until
        self._tally = tally
        self._transport: asyncio.Transport
        self._sent_at = 0.0
        self._pending = b""
        self._over = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        data = self._pending + data if self._pending else data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + _length(data[:end]):
            self._pending = data
            return
        self._pending = b""
        now = time.perf_counter()
        tally = self._tally
        if data[9:12] == b"200":
            tally.seconds.append(now - self._sent_at)
        else:
            tally.refused += 1
        body = data[end + 4 :]
        if tally.first is None:
            tally.first = body
        elif body != tally.first:
            tally.different += 1
        if now < self._until:
            self._send()
        else:
            self._over = True
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._over:
            self._tally.refused += 1  # the server hung up on a call
        if not self.over.done():
            self.over.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    if start < 0:
        raise RuntimeError(f"a response without its length: {head[:200]!r}")
    end = lower.find(b"\r\n", start)
    return int(lower[start + 15 : end if end > 0 else None])


async def load(plan: Plan) -> Found:
    """Make calls on all connections until the time is over."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    data = request(plan)
    used = time.process_time()
    began = time.perf_counter()
    until = began + plan.seconds
    made = [
        await loop.create_connection(lambda: Connection(data, until, tally), plan.host, plan.port)
        for _ in range(plan.connections)
    ]
    await asyncio.gather(*(connection.over for _, connection in made))
    took = time.perf_counter() - began
    used = time.process_time() - used
    tally.seconds.sort()
    return Found(
        responses=len(tally.seconds),
        refused=tally.refused,
        different=tally.different,
        first=(tally.first or b"")[:1000].decode("utf-8", "replace"),
        seconds=took,
        p50_ms=_percentile(tally.seconds, 0.5),
        p99_ms=_percentile(tally.seconds, 0.99),
        own_cpu_us=1e6 * used / max(1, len(tally.seconds)),
    )


def _percentile(ordered: list[float], share: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def streams(plan: Plan) -> Found:
    """Read streams one after the other, each on a connection of its own."""
    data = request(plan).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    found = Found(responses=0, seconds=0.0)
    used = time.process_time()
    for _ in range(plan.streams):
        reader, writer = await asyncio.open_connection(plan.host, plan.port, limit=2**22)
        pieces: list[bytes] = []
        delay: float | None = None
        began = time.perf_counter()
        writer.write(data)
        while piece := await reader.read(2**18):
            now = time.monotonic()
            pieces.append(piece)
            if delay is None:
                delay = _delay(b"".join(pieces), now)
        found.seconds += time.perf_counter() - began
        writer.close()
        whole = b"".join(pieces)
        found.refused += whole[9:12] != b"200" or b"event: error" in whole
        found.responses += whole.count(b'"at":')
        found.delays_ms.append(1000 * (delay or 0.0))
    found.own_cpu_us = 1e6 * (time.process_time() - used) / max(1, found.responses)
    return found


def _delay(text: bytes, now: float) -> float | None:
    """Return the age of the first chunk, by the time in it; None if the chunk is incomplete."""
    _, found, rest = text.partition(b'"at":')
    stated, ended, _ = rest.partition(b"}")
    return now - float(stated) if found and ended else None


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    found = uvloop.run(streams(plan) if plan.streams else load(plan))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
