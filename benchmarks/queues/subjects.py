"""The measured queues: how each is filled, drained and counted, all on the same PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import ENVIRONMENTS, label
from benchmarks.ground import SUBMISSION, service
from penstock.tenants.principal import DEFAULT_TENANT

RIVALS = Path(__file__).parent / "rivals"
_REPOSITORY = Path(__file__).parents[2]
_FILL_SECONDS = 120.0
_BATCH = 5000

PACKAGES = {  # pinned, because versions differ more than machines do
    "procrastinate": (
        "procrastinate==3.10.0",
        "psycopg[binary]==3.3.9",
        "fastapi==0.165.0",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
        "httptools==0.9.0",
    ),
    "pgqueuer": ("pgqueuer[asyncpg]==1.6.0", "uvloop==0.23.0"),
    "dbos": ("dbos==3.4.0",),
    "saq": ("saq[postgres]==0.26.4", "psycopg[binary]==3.3.9"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One queue in one configuration."""

    name: str
    label: str  # with its version and configuration
    jobs: int  # in the store before the worker starts
    finished: str  # a query for the number of completed jobs, and the time of the last one if it is stored
    environment: str | None = None  # None: Penstock's own
    work: tuple[str, ...] = ("work",)
    unequal: str = ""  # features of Penstock that it lacks

    async def fill(self, url: str) -> None:
        """Store the jobs, by the queue's own bulk call."""
        if self.environment is None:
            async with service(url) as (jobs, _):
                for _ in range(self.jobs // _BATCH):
                    await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * _BATCH)
            return
        async with self._process(url, "fill", str(self.jobs)) as filling:
            code = await asyncio.wait_for(filling.wait(), _FILL_SECONDS)
        if code:
            raise RuntimeError(f"{self.label}: the jobs could not be stored")

    @asynccontextmanager
    async def working(self, url: str) -> AsyncIterator[float]:
        """Run one worker process while the block runs; yields the time when it began to take jobs."""
        async with self._process(url, *self.work) as worker:
            assert worker.stdout is not None
            async with asyncio.timeout(60):
                while True:
                    line = await worker.stdout.readline()
                    if not line:
                        raise RuntimeError(f"{self.label}: the worker ended")
                    if line.startswith(b"begin "):
                        break
            reading = asyncio.create_task(_read_all(worker.stdout))
            try:
                yield float(line.split()[1])
            finally:
                reading.cancel()

    @asynccontextmanager
    async def _process(self, url: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        command = [sys.executable, "-m", "benchmarks.noop_worker"]
        if self.environment is not None:
            program = ENVIRONMENTS / self.environment / "bin" / "python"
            command = [str(program), str(RIVALS / f"{self.environment}_app.py"), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=_REPOSITORY,
            env={**os.environ, "DATABASE_URL": url, "BENCH_STAY": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing is left to do, and the database is dropped
            await process.wait()


async def _read_all(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


_PGQUEUER = {
    "environment": "pgqueuer",
    "jobs": 30_000,
    "finished": "SELECT count(*) AS jobs, max(created) AS last FROM pgqueuer_log WHERE status = 'successful'",
    "unequal": "stores no results, no fencing",
}

SUBJECTS = (
    Subject(
        name="penstock",
        label="penstock",
        jobs=30_000,
        finished="SELECT count(*) AS jobs, max(finished_at) AS last FROM penstock.done WHERE status = 'completed'",
    ),
    Subject(
        name="pgqueuer 1",
        label=f"{label(PACKAGES['pgqueuer'][0])}, one manager",
        work=("work", "1"),
        **_PGQUEUER,  # type: ignore[arg-type]
    ),
    Subject(
        name="pgqueuer 2",
        label=f"{label(PACKAGES['pgqueuer'][0])}, two managers",
        work=("work", "2"),
        **_PGQUEUER,  # type: ignore[arg-type]
    ),
    Subject(
        name="procrastinate",
        label=label(PACKAGES["procrastinate"][0]),
        environment="procrastinate",
        jobs=1500,
        finished="SELECT count(*) AS jobs, max(at) AS last FROM procrastinate_events WHERE type = 'succeeded'",
        unequal="stores no results",
    ),
    Subject(
        name="dbos",
        label=label(PACKAGES["dbos"][0]),
        environment="dbos",
        jobs=1500,
        finished="SELECT count(*) AS jobs, to_timestamp(max(updated_at) / 1000.0) AS last "
        "FROM dbos.workflow_status WHERE status = 'SUCCESS'",
    ),
    Subject(
        name="saq",
        label=label(PACKAGES["saq"][0]),
        environment="saq",
        jobs=1600,
        finished="SELECT count(*) AS jobs, NULL::timestamptz AS last FROM saq_jobs WHERE status = 'complete'",
    ),
)
