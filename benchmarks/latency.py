"""The time from submitting a job over HTTP to receiving its result, at 50 jobs a second."""

from __future__ import annotations

import asyncio
import time

import msgspec

from benchmarks.figures import Figure, Spread
from benchmarks.ground import SUBMISSION, fresh_database, gateway, process
from benchmarks.raw_http import Caller
from penstock.postgres.embedded import EmbeddedServer

RATE = 50
JOBS = 1000


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure in an open loop: a job's clock starts when it was due, so that waiting senders do not hide a stall."""
    async with (
        fresh_database(server) as url,
        gateway(url) as address,
        process("-m", "benchmarks.noop_worker", DATABASE_URL=url, BENCH_STAY="1", BENCH_LIMIT="64"),
    ):
        body = msgspec.json.encode(SUBMISSION)
        idle: list[Caller] = []  # a connection without a request is closed after a while
        samples: list[float] = []

        async def submit_and_wait(due: float) -> None:
            line = idle.pop() if idle else await Caller.connect(address)
            status, answer = await line.send(line.request("POST", "/api/v1/jobs", body, "Prefer: wait=10\r\n"))
            if status != 201 or b'"status":"completed"' not in answer:
                raise RuntimeError(f"{status}: {answer[:200]!r}")
            samples.append(time.perf_counter() - due)
            idle.append(line)

        for _ in range(20):
            await submit_and_wait(time.perf_counter())
        samples.clear()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(JOBS):
                due = began + number / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(submit_and_wait(due))
        spread = Spread.of(samples)
    return [
        Figure(
            scenario=f"submit to result over HTTP at {RATE}/s, p50",
            value=spread.p50,
            unit="ms",
            promise=6,
            at_most=True,
            note=str(spread),
        )
    ]
