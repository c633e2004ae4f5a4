"""The load generator, a process of its own: ``python -m benchmarks.serving.load PLAN``, where PLAN is JSON.

Raw HTTP/1.1 on keep-alive connections, as little work for each answer as can be, for it shares the cores with what it
measures. Prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec import Struct


class Plan(Struct, kw_only=True):
    """What to send, how often."""

    host: str = "127.0.0.1"
    port: int
    path: str
    headers: dict[str, str] = {}
    body: str = ""  # text, or the path of a file as @PATH
    connections: int = 1
    seconds: float = 3.0
    stream: bool = False  # one request, of whose answer the chunks are counted


class Found(Struct, kw_only=True):
    """What came of it."""

    answers: int
    refused: int  # answers whose status is not 200
    seconds: float
    p50_ms: float
    p99_ms: float
    delays_ms: list[float] = []  # of streams: from each chunk's making to its arrival


def request(plan: Plan) -> bytes:
    """The bytes of the request."""
    body = Path(plan.body[1:]).read_bytes() if plan.body.startswith("@") else plan.body.encode()
    headers = {"Host": f"{plan.host}:{plan.port}", "Content-Type": "application/json"} | plan.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {plan.path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One caller: a request, its answer, the next request."""

    def __init__(self, data: bytes, until: float, samples: list[float], refused: list[int]) -> None:
        self._request = data
        self._until = until
        self._samples = samples
        self._refused = refused
        self._transport: asyncio.Transport
        self._sent_at = 0.0
        self._pending = b""
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
        if data[9:12] == b"200":
            self._samples.append(now - self._sent_at)
        else:
            self._refused.append(int(data[9:12]))
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    if start < 0:
        raise RuntimeError(f"an answer without its length: {head[:200]!r}")
    end = lower.find(b"\r\n", start)
    return int(lower[start + 15 : end if end > 0 else None])


async def load(plan: Plan) -> Found:
    """Call with all connections until the time is over."""
    loop = asyncio.get_running_loop()
    samples: list[float] = []
    refused: list[int] = []
    data = request(plan)
    began = time.perf_counter()
    made = [
        await loop.create_connection(
            lambda: Connection(data, began + plan.seconds, samples, refused), plan.host, plan.port
        )
        for _ in range(plan.connections)
    ]
    await asyncio.gather(*(connection.over for _, connection in made))
    took = time.perf_counter() - began
    samples.sort()
    return Found(
        answers=len(samples),
        refused=len(refused),
        seconds=took,
        p50_ms=_percentile(samples, 0.5),
        p99_ms=_percentile(samples, 0.99),
    )


def _percentile(ordered: list[float], share: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def stream(plan: Plan) -> Found:
    """One request; every chunk's delay, by the time that stands in it."""
    reader, writer = await asyncio.open_connection(plan.host, plan.port, limit=2**22)
    began = time.perf_counter()
    writer.write(request(plan).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    delays: list[float] = []
    rest = b""
    while piece := await reader.read(2**18):
        now = time.monotonic()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            at = line.find(b'"at":')
            if at >= 0:
                text = line[at + 5 :].strip()
                delays.append(now - float(text[: text.index(b"}")].strip(b' "\\')))
    took = time.perf_counter() - began
    writer.close()
    ordered = sorted(delays)
    return Found(
        answers=len(delays),
        refused=0,
        seconds=took,
        p50_ms=_percentile(ordered, 0.5),
        p99_ms=_percentile(ordered, 0.99),
        delays_ms=[1000 * delay for delay in delays[:3]],
    )


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    found = uvloop.run(stream(plan) if plan.stream else load(plan))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
