"""A gateway with slow or malicious clients: the latency of honest callers, and the gateway's memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psutil

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database, process, until_ready
from benchmarks.raw_http import Caller
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

SLOW = 1000  # connections
_CALLERS = 8
_SECONDS = 10.0
_FLOOD_BYTES = 100_000_000  # bytes of headers on one connection


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure calls alone, then beside slow heads, then beside a flood of headers."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    async with (
        fresh_database(server) as url,
        process("-m", "penstock", "gateway", DATABASE_URL=url, HTTP_PORT=str(port), HTTP_HOST="127.0.0.1") as gateway,
    ):
        await until_ready(address)
        measured = psutil.Process(gateway.pid)
        await _latencies(address, seconds=2.0)  # warms up
        before = measured.memory_info().rss
        alone = await _latencies(address, seconds=_SECONDS)
        async with _slow_heads(address):
            beside = await _latencies(address, seconds=_SECONDS)
            slow_bytes = measured.memory_info().rss - before
        async with _flood(address):
            flooded = await _latencies(address, seconds=_SECONDS)
        flood_bytes = measured.memory_info().rss - before
    return [
        *_figures("alone", alone),
        *_figures(f"beside {SLOW:,} slow heads", beside),
        *_figures("beside a flood of headers", flooded),
        Figure(
            scenario=f"memory for {SLOW:,} slow heads", value=slow_bytes / 2**20, unit="MiB", promise=64, at_most=True
        ),
        Figure(
            scenario=f"memory after {_FLOOD_BYTES // 10**6} MB of headers",
            value=flood_bytes / 2**20,
            unit="MiB",
            promise=64,
            at_most=True,
        ),
    ]


def _figures(circumstance: str, seconds: list[float]) -> list[Figure]:
    return [
        Figure(
            scenario=f"GET /healthz {circumstance}, {name}", value=1000 * seconds[int(len(seconds) * part)], unit="ms"
        )
        for name, part in (("p50", 0.5), ("p99", 0.99))
    ]


async def _latencies(address: str, *, seconds: float) -> list[float]:
    """Return the times of honest calls, sorted."""
    found: list[float] = []
    until = time.perf_counter() + seconds

    async def call() -> None:
        caller = await Caller.connect(address)
        request = caller.request("GET", "/healthz")
        while (began := time.perf_counter()) < until:
            status, _ = await caller.send(request)
            if status != 200:
                raise RuntimeError(f"an honest call got {status}")
            found.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)
        caller.close()

    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return sorted(found)


@asynccontextmanager
async def _slow_heads(address: str) -> AsyncIterator[None]:
    """Open many connections that send a header every second and never end their heads; reopen those that are cut."""
    parts = urlsplit(address)

    async def drip() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n")
                while not writer.is_closing():
                    writer.write(b"X: y\r\n")
                    await writer.drain()
                    await asyncio.sleep(1.0)
            await asyncio.sleep(0.1)

    async with _running([drip() for _ in range(SLOW)]):
        yield


@asynccontextmanager
async def _flood(address: str) -> AsyncIterator[None]:
    """Open three connections that send headers as fast as they can; reopen those that are cut."""
    parts = urlsplit(address)

    async def pour() -> None:
        left = _FLOOD_BYTES
        while left > 0:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n")
                while left > 0 and not reader.at_eof():
                    writer.write(b"X: y\r\n" * 1000)
                    left -= 6000
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.close()
            await asyncio.sleep(0.001)

    async with _running([pour() for _ in range(3)]):
        yield


@asynccontextmanager
async def _running(work: list[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
