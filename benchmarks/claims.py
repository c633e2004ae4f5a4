"""The speed of claims: with an empty history, with millions of jobs, and while vacuum is held back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from benchmarks.figures import Figure, Spread
from benchmarks.ground import SUBMISSION, fresh_database, service
from penstock.assembly.housekeeper import HousekeeperAssembly
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimRequest, JobCompletion
from penstock.masking import Secret
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.settings import load_settings
from penstock.tenants.principal import DEFAULT_TENANT

FINISHED, READY = 5_000_000, 1_000_000
_CLAIM = ClaimRequest(worker_id="bench", task_types=["noop"], limit=32)

_FILL_FINISHED = """
WITH made AS MATERIALIZED (
    SELECT uuid_floor(now() - interval '20 hours' * (n::float8 / $1)) AS low FROM generate_series(1, $1) n
), ids AS MATERIALIZED (
    SELECT (left(low::text, 14) || '7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3) || '-'
            || substr(noise, 7, 12))::uuid AS id
    FROM made, LATERAL (SELECT md5(random()::text || low::text) AS noise) n
), j AS (
    INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts,
                     created_at)
    SELECT 1, id, 1, 1, 1, '', '', '{}', 3, now() FROM ids
)
INSERT INTO done (tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, finished_at, status, worker_id,
                  result)
SELECT 1, id, 1, 1, 1, now(), now(), now(), 'completed', 'w', '{}' FROM ids
"""


async def run(server: EmbeddedServer) -> list[Figure]:
    """Claim latencies; each figure is the p50 of claims of 32 jobs."""
    async with fresh_database(server) as url, service(url) as (jobs, database), _kept(database):
        empty = await _claims(jobs, database, ready=20_000)
        await _fill(database, FINISHED)
        behind = await _claims(jobs, database, ready=READY)
    async with fresh_database(server) as url, service(url) as (jobs, database), _kept(database):
        healthy, _ = await _under_load(jobs, seconds=10)
        held, completed = await _behind_transaction(url, jobs)
    return [
        Figure(scenario="claim of 32, empty history, p50", value=empty.p50, unit="ms", note=str(empty)),
        Figure(scenario="claim of 32, 5 M finished, 1 M ready, p50", value=behind.p50, unit="ms", note=str(behind)),
        Figure(
            scenario="ratio of the two",
            value=behind.p50 / empty.p50,
            unit="×",
            promise=1.3,
            at_most=True,
        ),
        Figure(scenario="claim at 2,000 jobs/s, p50", value=healthy.p50, unit="ms", note=str(healthy)),
        Figure(
            scenario="the same, a transaction held open for 60 s: last 15 s, p50",
            value=held.p50,
            unit="ms",
            note=f"{held}; {completed:,.0f} jobs/s completed",
        ),
    ]


async def _fill(database: Database, count: int) -> None:
    async with database.acquire() as connection:
        await connection.execute("SET statement_timeout = 0")
        for _ in range(count // 250_000):
            await connection.execute(
                _FILL_FINISHED.replace("$1", "250000").replace("md5(n::text)", "md5(random()::text)"), timeout=300
            )
        await connection.execute("ANALYZE", timeout=300)
        await connection.execute("CHECKPOINT", timeout=300)
        await connection.execute("SET statement_timeout = '20s'")


async def _claims(jobs: JobService, database: Database, *, ready: int) -> Spread:
    for _ in range(ready // 10_000):
        await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * 10_000)
    async with database.acquire() as connection:
        await connection.execute("VACUUM ANALYZE ready, lease", timeout=300)
        await connection.execute("CHECKPOINT", timeout=300)
    samples = []
    for number in range(600):
        began = time.perf_counter()
        claimed = await jobs.of(DEFAULT_TENANT).claim(_CLAIM)
        if number >= 100:
            samples.append(time.perf_counter() - began)
        if len(claimed) != _CLAIM.limit:
            raise RuntimeError("too few jobs to claim")
        await jobs.of(DEFAULT_TENANT).complete_many([JobCompletion(id=job.id, epoch=job.epoch) for job in claimed])
    return Spread.of(samples)


@asynccontextmanager
async def _kept(database: Database) -> AsyncIterator[None]:
    """Run a housekeeper while the block runs."""
    stated = {"database_url": Secret(database.url), "penstock_blob_url": "postgres"}
    assembly = HousekeeperAssembly(load_settings(None).replace(**stated))
    running = asyncio.create_task(assembly.housekeeper.run())
    try:
        yield
    finally:
        await assembly.housekeeper.stop()
        await running
        await assembly.close()


async def _under_load(jobs: JobService, *, seconds: float, rate: int = 2000) -> tuple[Spread, float]:
    """Submit at a steady rate and claim at once; return the claims of the last quarter and the jobs per second."""
    began = time.perf_counter()
    end = began + seconds
    samples: list[tuple[float, float]] = []
    completed = 0

    async def submitter() -> None:
        step = 0.02
        due = began
        while (due := due + step) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * int(rate * step))

    async def claimer() -> None:
        nonlocal completed
        while (now := time.perf_counter()) < end:
            claimed = await jobs.of(DEFAULT_TENANT).claim(_CLAIM)
            if not claimed:
                await asyncio.sleep(0.005)
                continue
            samples.append((now, time.perf_counter() - now))
            await jobs.of(DEFAULT_TENANT).complete_many([JobCompletion(id=j.id, epoch=j.epoch) for j in claimed])
            completed += len(claimed)

    parts: list[Callable[[], Coroutine[Any, Any, None]]] = [submitter, claimer]
    await asyncio.gather(*(part() for part in parts))
    return Spread.of([took for at, took in samples if at > began + seconds * 0.75]), completed / seconds


async def _behind_transaction(url: str, jobs: JobService) -> tuple[Spread, float]:
    """Run the same load while another session keeps a snapshot open, so that vacuum cannot remove dead rows."""
    stranger = await asyncpg.connect(url, server_settings={"idle_in_transaction_session_timeout": "0"})
    try:
        async with stranger.transaction(isolation="repeatable_read"):
            await stranger.fetchval("SELECT count(*) FROM penstock.tenant")
            return await _under_load(jobs, seconds=60)
    finally:
        await stranger.close()
