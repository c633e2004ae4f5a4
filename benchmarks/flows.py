"""Flows: inline steps, child jobs, a map, and many runs that wait, beside the burn-down and DBOS in the same run."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

import msgspec
import psutil
from msgspec import Raw
from msgspec.structs import replace

from benchmarks import flow_rivals
from benchmarks.burndown import drain
from benchmarks.figures import Figure
from benchmarks.ground import SUBMISSION, fresh_database, process, service
from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT

FLOWS = """
from penstock.flows import flow, run

NOOP = run.queue("noop", "none")
INPUT = {"text": "x" * 480}

@flow(name="inline", version="1")
async def inline() -> int:
    total = 0
    for step in range(3):
        total += await run.side_effect(lambda: step)
    return total

@flow(name="children", version="1")
async def children() -> int:
    for _ in range(3):
        await run.call(NOOP, INPUT)
    return 3

@flow(name="mapped", version="1")
async def mapped(count: int) -> int:
    return len(await run.map(NOOP, [INPUT] * count, limit=1024))

@flow(name="waits", version="1")
async def waits() -> int:
    await run.wait_signal("go")
    return 1
"""
INLINE, CHILDREN, MAP, PARKED = 4000, 1000, 10_000, 100_000
_ROUNDS, _RIVAL_INLINE, _RIVAL_CHILDREN = 3, 1000, 300
_CHUNK = 5000


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure by finished rows in the store; flows and those of DBOS take turns for three rounds."""
    burn_down = await drain(server)
    missing = await flow_rivals.prepared()
    inline, children = Turns(), Turns()
    for _ in range(_ROUNDS):
        inline.ours.append(await _rate(server, "inline@1", INLINE))
        children.ours.append(await _rate(server, "children@1", CHILDREN))
        if missing is None:
            inline.theirs.append(await flow_rivals.rate(server, "inline", _RIVAL_INLINE))
            children.theirs.append(await flow_rivals.rate(server, "children", _RIVAL_CHILDREN))
    latency = await _latency(server, "inline@1")
    other = math.nan if missing else await flow_rivals.latency(server, 120)
    mapped = await _map(server)
    dbos = f"the same: {flow_rivals.DBOS}"
    why = f"not measured: {missing}" if missing else "64 threads start them"
    return [
        _figure(
            "flows of three inline steps", median(inline.ours), "/s", 2500 * burn_down / 20_000,
            note=_share(inline.ours, burn_down),
        ),
        _figure(dbos, inline.their_median, "/s", None, note=why),
        _figure("Penstock to DBOS, three inline steps", inline.ratio, "×", None, note=inline.spread),
        Figure(
            scenario="one flow of three inline steps, p50", value=latency, unit="ms", promise=5, at_most=True,
            note="alone; submit to end", group="flows",
        ),
        _figure(dbos, other, "ms", None, note=missing or "alone; a call within the process"),
        _figure("flows of three child jobs", median(children.ours), "/s", None, note=_share(children.ours, burn_down)),
        _figure(dbos, children.their_median, "/s", None, note=why),
        _figure("Penstock to DBOS, three child jobs", children.ratio, "×", 5, note=children.spread),
        _figure("map of 10,000 no-op jobs", mapped, "/s", 0.6 * burn_down, note=_share([mapped], burn_down)),
        *await _parked(server),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turns:
    """Flows a second, by rounds."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def their_median(self) -> float:
        return median(self.theirs) if self.theirs else math.nan

    @property
    def ratios(self) -> list[float]:
        return sorted(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=False))

    @property
    def ratio(self) -> float:
        return median(self.ratios) if self.theirs else math.nan

    @property
    def spread(self) -> str:
        return f"{self.ratios[0]:.1f} to {self.ratios[-1]:.1f} in {len(self.ratios)} rounds" if self.theirs else ""


def _figure(scenario: str, value: float, unit: str, promise: float | None, *, note: str) -> Figure:
    return Figure(scenario=scenario, value=value, unit=unit, promise=promise, note=note, group="flows")


def _share(rates: list[float], burn_down: float) -> str:
    return f"{median(rates) / burn_down:.3f} of the burn-down of the same run, {burn_down:,.0f}/s"


@asynccontextmanager
async def _worker(url: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    with tempfile.TemporaryDirectory(prefix="penstock-flows-") as folder:
        (Path(folder) / "flows.py").write_text(FLOWS)
        async with process(
            "-m", "penstock", "worker", DATABASE_URL=url, PENSTOCK_FLOWS_DIR=folder, WORKER_HTTP_PORT="0", **variables
        ) as worker:
            yield worker


def _run(profile: str, value: object) -> JobSubmission:
    return replace(SUBMISSION, task_type="flow", model_profile=profile, input=Raw(msgspec.json.encode(value)))


async def _submit(jobs: JobService, profile: str, count: int, value: object = None) -> None:
    run = _run(profile, value or {})
    for first in range(0, count, _CHUNK):
        await jobs.of(DEFAULT_TENANT).submit_many([run] * min(_CHUNK, count - first))


async def _until(jobs: JobService, profile: str, state: str, count: int) -> None:
    while True:
        stats = await jobs.of(DEFAULT_TENANT).stats()
        found = sum(getattr(queue, state) for queue in stats.queues if queue.model_profile == profile)
        if found >= count:
            return
        await asyncio.sleep(0.1)


async def _seconds(database: Database, profile: str) -> float:
    async with database.acquire() as connection:
        span = await connection.fetchrow(
            "SELECT min(d.started_at) AS first, max(d.finished_at) AS last"
            " FROM done d JOIN series s ON s.id = d.series_id WHERE s.model_profile = $1",
            profile,
        )
    assert span is not None
    seconds: float = (span["last"] - span["first"]).total_seconds()
    return seconds


async def _rate(server: EmbeddedServer, profile: str, count: int) -> float:
    async with fresh_database(server) as url, service(url) as (jobs, database):
        await _submit(jobs, profile, count)
        async with (
            process("-m", "benchmarks.noop_worker", DATABASE_URL=url, BENCH_STAY="1"),
            _worker(url),
        ):
            await _until(jobs, profile, "completed", count)
        return count / await _seconds(database, profile)


async def _latency(server: EmbeddedServer, profile: str) -> float:
    samples = []
    async with fresh_database(server) as url, service(url) as (jobs, _), _worker(url):
        mine = jobs.of(DEFAULT_TENANT)
        for _ in range(120):
            began = time.perf_counter()
            job = (
                await mine.submit(replace(SUBMISSION, task_type="flow", model_profile=profile, input=Raw(b"{}")))
            ).job
            ended = await mine.wait(job.id, timedelta(seconds=60))
            if ended.status is not Status.COMPLETED:
                raise RuntimeError(f"a run has not completed: {ended}")
            samples.append(time.perf_counter() - began)
    return 1000 * sorted(samples[20:])[50]


async def _map(server: EmbeddedServer) -> float:
    async with fresh_database(server) as url, service(url) as (jobs, database):
        async with process("-m", "benchmarks.noop_worker", DATABASE_URL=url, BENCH_STAY="1"), _worker(url):
            await _submit(jobs, "mapped@1", 1, {"count": MAP})
            await _until(jobs, "mapped@1", "completed", 1)
        return MAP / await _seconds(database, "none")


async def _parked(server: EmbeddedServer) -> list[Figure]:
    async with fresh_database(server) as url, service(url) as (jobs, database), _worker(url) as worker:
        await _submit(jobs, "waits@1", 100)
        await _until(jobs, "waits@1", "waiting", 100)
        before = _memory(worker.pid)
        began = time.perf_counter()
        await _submit(jobs, "waits@1", PARKED - 100)
        await _until(jobs, "waits@1", "waiting", PARKED)
        parking = time.perf_counter() - began
        await asyncio.sleep(2)
        grown = (_memory(worker.pid) - before) / 2**20
        woken = await _wake(database)
        await _until(jobs, "waits@1", "completed", 1000)
    return [
        Figure(
            scenario="100,000 parked flows add", value=grown, unit="MB", promise=50, at_most=True,
            note=f"to all processes of the worker; parked at {(PARKED - 100) / parking:,.0f}/s", group="flows",
        ),
        _figure("parked flows woken", woken, "/s", 5000, note="signals in batches of 500, to ready"),
    ]  # fmt: skip


def _memory(pid: int) -> int:
    found = psutil.Process(pid)
    return sum(one.memory_full_info().uss for one in (found, *found.children(recursive=True)))


async def _wake(database: Database) -> float:
    """Send a signal to each parked run; return how many a second became ready."""
    async with database.acquire() as connection:
        runs = [
            row["run_id"] for row in await connection.fetch("SELECT run_id FROM flow_gate WHERE parked_at IS NOT NULL")
        ]
        began = time.perf_counter()
        for first in range(0, len(runs), 500):
            await connection.execute(
                "SELECT count(*) FROM flow_deliver($1, ARRAY(SELECT ROW(r.id, 'signal', NULL, 'go', NULL, NULL,"
                " '1'::json, NULL, NULL, NULL)::flow_letter FROM unnest($2::uuid[]) AS r(id)))",
                DEFAULT_TENANT,
                runs[first : first + 500],
            )
        return len(runs) / (time.perf_counter() - began)
