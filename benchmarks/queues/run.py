"""Measure job queues on PostgreSQL, round by round: draining a backlog with one process, creating jobs over HTTP."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import msgspec

from benchmarks.create import poster, timed
from benchmarks.environments import ENVIRONMENTS, prepare
from benchmarks.figures import Figure
from benchmarks.ground import INPUT, SUBMISSION, fresh_database, gateway, until_ready
from benchmarks.queues.subjects import PACKAGES, RIVALS, SUBJECTS, Subject
from benchmarks.raw_http import Caller
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

ROUNDS = 3
CALLERS = 64
_CREATES = 20_000  # of Penstock in a round
_RIVAL_CREATES = 4000
_STALLED_SECONDS = 30.0  # without a finished job, after which a drain is aborted
_POLL_SECONDS = 0.1
_GROUP = "queues"
_OURS = "penstock"
_FASTAPI = "fastapi and procrastinate"


@dataclass(slots=True)
class Rates:
    """Jobs per second, round by round, or why there are none."""

    values: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values and self.problem is None else math.nan


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure every queue in turn in each round, so that a noisy moment affects all of them."""
    problems = {name: await asyncio.to_thread(prepare, name, packages) for name, packages in PACKAGES.items()}
    drains = {one.name: Rates(problem=one.environment and problems[one.environment]) for one in SUBJECTS}
    creates = {_OURS: Rates(), _FASTAPI: Rates(problem=problems["procrastinate"])}
    for number in range(1, ROUNDS + 1):
        for subject in SUBJECTS:
            print(f"  round {number} of {ROUNDS}: {subject.label}", flush=True)
            await _measure(drains[subject.name], _drain, server, subject)
        print(f"  round {number} of {ROUNDS}: creates over HTTP", flush=True)
        await _measure(creates[_OURS], _our_creates, server)
        await _measure(creates[_FASTAPI], _fastapi_creates, server)
    return [*_drain_figures(drains), *_create_figures(creates)]


async def _measure(rates: Rates, scenario: Callable[..., Awaitable[float]], *arguments: object) -> None:
    """Add one round's figure; a subject that fails once is excluded, with the reason."""
    if rates.problem is not None:
        return
    try:
        rates.values.append(await scenario(*arguments))
    except (RuntimeError, OSError, TimeoutError, asyncpg.PostgresError) as error:
        rates.problem = str(error) or type(error).__name__


async def _drain(server: EmbeddedServer, subject: Subject) -> float:
    """Return jobs per second from the first claim to the last job that is stored as finished."""
    async with fresh_database(server, migrated=subject.environment is None) as url:
        await subject.fill(url)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("CHECKPOINT")
            async with subject.working(url) as began:
                ended = await _until_finished(connection, subject)
        finally:
            await connection.close()
    return subject.jobs / (ended - began)


async def _until_finished(connection: asyncpg.Connection, subject: Subject) -> float:
    """Wait until the store holds every job as finished; return when the last one was."""
    finished, since = 0, time.monotonic()
    while True:
        row = await connection.fetchrow(subject.finished)
        assert row is not None
        if row["jobs"] == subject.jobs:
            last = row["last"]
            return time.time() if last is None else float(last.timestamp())
        if row["jobs"] > subject.jobs:
            raise RuntimeError(f"{row['jobs']} jobs ended of {subject.jobs}")
        if row["jobs"] > finished:
            finished, since = row["jobs"], time.monotonic()
        elif time.monotonic() - since > _STALLED_SECONDS:
            raise RuntimeError(f"stalled at {finished} jobs of {subject.jobs}")
        await asyncio.sleep(_POLL_SECONDS)


async def _our_creates(server: EmbeddedServer) -> float:
    async with fresh_database(server) as url, gateway(url) as address:
        body = msgspec.json.encode(SUBMISSION)
        rate = await _creates(address, "/api/v1/jobs", body, _CREATES)
        return await _stored(url, "SELECT count(*) FROM penstock.job", _CREATES, rate)


async def _fastapi_creates(server: EmbeddedServer) -> float:
    async with fresh_database(server, migrated=False) as url:
        await next(one for one in SUBJECTS if one.name == "procrastinate").fill(url)
        before = await _count(url, "SELECT count(*) FROM procrastinate_jobs")
        async with _fastapi(url) as address:
            rate = await _creates(address, "/jobs", INPUT, _RIVAL_CREATES)
        return await _stored(url, "SELECT count(*) FROM procrastinate_jobs", before + _RIVAL_CREATES, rate)


async def _creates(address: str, path: str, body: bytes, calls: int) -> float:
    lines = [await Caller.connect(address) for _ in range(CALLERS)]
    try:
        rate, _ = await timed([poster(line, path, body) for line in lines], calls)
    finally:
        for line in lines:
            line.close()
    return rate


async def _stored(url: str, count: str, least: int, rate: float) -> float:
    """Return the rate, after checking that all acknowledged jobs (including those of the warm-up) are stored."""
    stored = await _count(url, count)
    if stored < least:
        raise RuntimeError(f"{stored} jobs are stored of {least}")
    return rate


async def _count(url: str, query: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


@asynccontextmanager
async def _fastapi(url: str) -> AsyncIterator[str]:
    """Run FastAPI that defers a job for each request; one process, on uvloop and httptools."""
    port = free_port()
    program = ENVIRONMENTS / "procrastinate" / "bin" / "python"
    server = await asyncio.create_subprocess_exec(
        *(str(program), "-m", "uvicorn", "procrastinate_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
        cwd=RIVALS,
        env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        await until_ready(address)
        yield address
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


def _drain_figures(drains: Mapping[str, Rates]) -> list[Figure]:
    ours = drains[_OURS].median
    best = max((drains[name].median for name in ("pgqueuer 1", "pgqueuer 2") if drains[name].values), default=math.nan)
    figures = [
        Figure(
            scenario=f"backlog, one worker process: {subject.label}",
            value=drains[subject.name].median,
            unit="jobs/s",
            note=_note(drains[subject.name], ours, subject.unequal, ours_too=subject.name == _OURS),
            group=_GROUP,
        )
        for subject in SUBJECTS
    ]
    for text, value, promise in (
        ("Penstock to the better PgQueuer", ours / best, 1.5),
        ("Penstock to Procrastinate", ours / drains["procrastinate"].median, 50.0),
    ):
        figures.append(Figure(scenario=f"{text}, backlog", value=value, unit="×", promise=promise, group=_GROUP))
    return figures


def _create_figures(creates: Mapping[str, Rates]) -> list[Figure]:
    ours, theirs = creates[_OURS], creates[_FASTAPI]
    labels = {_OURS: "penstock", _FASTAPI: "fastapi 0.165.0 and procrastinate 3.10.0"}
    return [
        *(
            Figure(
                scenario=f"creates over HTTP, one process, {CALLERS} callers: {labels[name]}",
                value=rates.median,
                unit="/s",
                note=_note(rates, ours.median, "no fencing, no event streams", ours_too=name == _OURS),
                group=_GROUP,
            )
            for name, rates in creates.items()
        ),
        Figure(
            scenario="Penstock to FastAPI and Procrastinate, creates",
            value=ours.median / theirs.median,
            unit="×",
            promise=3.0,
            group=_GROUP,
        ),
    ]


def _note(rates: Rates, ours: float, unequal: str, *, ours_too: bool) -> str:
    if rates.problem is not None:
        return f"not measured: {rates.problem}"
    spread = f"{min(rates.values):,.0f} to {max(rates.values):,.0f}"
    if ours_too:
        return spread
    ratio = ours / rates.median
    return f"{spread}; Penstock does {ratio:,.1f} times as many" + (f"; {unequal}" if unequal else "")
