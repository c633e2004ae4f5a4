"""Durable creates by one caller and by many, in process and over HTTP, compared to bare rows in PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import msgspec

from benchmarks.figures import Figure, Spread
from benchmarks.ground import INPUT, SUBMISSION, fresh_database, gateway, service
from benchmarks.raw_http import Caller
from penstock.postgres.embedded import EmbeddedServer
from penstock.tenants.principal import DEFAULT_TENANT

_TURNS: Final = 7


async def run(server: EmbeddedServer) -> list[Figure]:
    """Run all create scenarios."""
    figures = [await _limit(server)]
    for callers, calls, promise in ((1, 3000, None), (64, 60_000, 15_000.0)):
        async with fresh_database(server) as url, service(url) as (jobs, _):

            async def submit(jobs: object = jobs) -> None:
                await jobs.of(DEFAULT_TENANT).submit(SUBMISSION)  # type: ignore[attr-defined]

            rate, spread = await timed([submit] * callers, calls)
        figures.append(
            Figure(
                scenario=f"create, in process, {callers} callers",
                value=rate,
                unit="/s",
                promise=promise,
                note=str(spread),
            )
        )
    for callers, calls, promise in ((1, 3000, None), (64, 40_000, 8_000.0)):
        async with fresh_database(server) as url, gateway(url) as address:
            lines = [await Caller.connect(address) for _ in range(callers)]
            body = msgspec.json.encode(SUBMISSION)
            rate, spread = await timed([poster(line, "/api/v1/jobs", body) for line in lines], calls)
            for line in lines:
                line.close()
        figures.append(
            Figure(
                scenario=f"create, HTTP, one gateway process, {callers} callers",
                value=rate,
                unit="/s",
                promise=promise,
                note=str(spread),
            )
        )
    return [*figures, await _with_quotas(server)]


def poster(
    line: Caller, path: str, body: bytes, *, headers: str = "", expected: int = 201
) -> Callable[[], Awaitable[None]]:
    """Return a call that posts the body once and expects a status."""
    request = line.request("POST", path, body, headers)

    async def post() -> None:
        status, answer = await line.send(request)
        if status != expected:
            raise RuntimeError(f"{status}: {answer[:200]!r}")

    return post


async def timed(callers: list[Callable[[], Awaitable[None]]], calls: int) -> tuple[float, Spread]:
    """Make a number of calls with concurrent callers; return calls per second and the time of each call."""
    samples: list[float] = []
    left = calls

    async def caller(call: Callable[[], Awaitable[None]]) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await call()
            samples.append(time.perf_counter() - began)

    await asyncio.gather(*(call() for call in callers))  # warm: connections, prepared statements
    began = time.perf_counter()
    await asyncio.gather(*(caller(call) for call in callers))
    return len(samples) / (time.perf_counter() - began), Spread.of(samples)


async def _with_quotas(server: EmbeddedServer) -> Figure:
    """Compare creates of a tenant with three quotas to those of one without, by turns at one gateway."""
    body = msgspec.json.encode(SUBMISSION)
    async with fresh_database(server) as url, gateway(url) as address:
        lines = [await Caller.connect(address) for _ in range(64)]
        senders = {}
        for name in ("free", "limited"):
            await lines[0].send(lines[0].request("POST", "/api/v1/tenants", msgspec.json.encode({"name": name})))
            header = f"Penstock-Tenant: {name}\r\n"
            senders[name] = [poster(line, "/api/v1/jobs", body, headers=header) for line in lines]
        for quota in (
            {"measure": "jobs", "per": "minute", "limit": 10**9},
            {"measure": "jobs", "per": "month", "limit": 10**12},
            {"measure": "pending_jobs", "limit": 10**9},
        ):
            content = msgspec.json.encode(quota)
            await lines[0].send(lines[0].request("PUT", "/api/v1/quotas", content, "Penstock-Tenant: limited\r\n"))
        await asyncio.sleep(3)  # until the gateway knows them
        rates: dict[str, list[float]] = {"free": [], "limited": []}
        for _ in range(_TURNS):
            for name, callers in senders.items():
                rates[name].append((await timed(callers, 6000))[0])
        for line in lines:
            line.close()
    ratios = sorted(limited / free for limited, free in zip(rates["limited"], rates["free"], strict=True))
    return Figure(
        scenario="creates over HTTP with three quotas to those without, 64 callers",
        value=ratios[_TURNS // 2],
        unit="×",
        promise=0.9,
        note=f"{ratios[0]:.2f} to {ratios[-1]:.2f} in {_TURNS} turns",
    )


async def _limit(server: EmbeddedServer) -> Figure:
    """Insert bare rows of the same size into a table without indexes, 32 per commit, on one connection."""
    async with fresh_database(server) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE bare (id bigint, input text)")
        ids, inputs = list(range(32)), [INPUT.decode()] * 32
        batches = 1000
        began = time.perf_counter()
        for _ in range(batches):
            await connection.execute("INSERT INTO bare SELECT * FROM unnest($1::bigint[], $2::text[])", ids, inputs)
        elapsed = time.perf_counter() - began
        await connection.close()
    return Figure(scenario="limit: bare rows, 32 a commit, one connection", value=batches * 32 / elapsed, unit="/s")
