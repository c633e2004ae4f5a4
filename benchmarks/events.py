"""The time from an event to its readers at 50 jobs per second: at the gateway that stored it, and at another."""

from __future__ import annotations

import asyncio
import time

import msgspec

from benchmarks.figures import Figure, Spread
from benchmarks.ground import SUBMISSION, fresh_database, gateway, process
from benchmarks.raw_http import Caller
from penstock.client import Client
from penstock.postgres.embedded import EmbeddedServer

RATE = 50
JOBS = 500


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure each event from the statement that stores it, so that the commit and its response are included."""
    async with (
        fresh_database(server) as url,
        gateway(url) as near,
        gateway(url) as far,
        process("-m", "benchmarks.noop_worker", DATABASE_URL=url, BENCH_STAY="1", BENCH_LIMIT="64"),
    ):
        readers = {name: asyncio.create_task(_read(address)) for name, address in (("same", near), ("other", far))}
        await asyncio.sleep(0.5)
        await _submit(near)
        samples = {name: await reader for name, reader in readers.items()}
    return [
        Figure(
            scenario=f"event to its reader at the {name} gateway at {RATE} jobs/s, p50",
            value=spread.p50,
            unit="ms",
            promise=5,
            at_most=True,
            note=str(spread),
        )
        for name, spread in ((name, Spread.of(delays)) for name, delays in samples.items())
    ]


async def _submit(address: str) -> None:
    """Submit in an open loop: one job every 20 ms, by callers that do not wait for each other."""
    body = msgspec.json.encode(SUBMISSION)
    idle: list[Caller] = []

    async def submit() -> None:
        caller = idle.pop() if idle else await Caller.connect(address)
        status, answer = await caller.send(caller.request("POST", "/api/v1/jobs", body))
        if status != 201:
            raise RuntimeError(f"{status}: {answer[:200]!r}")
        idle.append(caller)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(JOBS):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            group.create_task(submit())


async def _read(address: str) -> list[float]:
    """Return the seconds from each event to its arrival, until every job has completed."""
    delays: list[float] = []
    completed = 0
    async with Client(address) as client:
        async for event in client.events():
            delays.append(time.time() - event.time.timestamp())
            completed += event.type == "job.completed"
            if completed == JOBS:
                break
    return delays
