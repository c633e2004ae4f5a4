"""50,000 no-op jobs with stored results, drained by one worker process."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.ground import SUBMISSION, fresh_database, process, service
from penstock.jobs.filters import JobFilter
from penstock.jobs.states import Status
from penstock.postgres.embedded import EmbeddedServer
from penstock.tenants.principal import DEFAULT_TENANT

JOBS = 50_000
_CHUNK = 5000


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure the burn-down three times, by completed rows in the store and not by calls of the handler."""
    rates = [await drain(server) for _ in range(3)]
    return [
        Figure(
            scenario="burn-down of 50,000 jobs, one worker process",
            value=sorted(rates)[1],
            unit="/s",
            promise=15_000,
            note=f"median of 3; {min(rates):,.0f} to {max(rates):,.0f}",
        )
    ]


async def drain(server: EmbeddedServer) -> float:
    """Return the rate of one burn-down."""
    async with fresh_database(server) as url, service(url) as (jobs, database):
        for _ in range(JOBS // _CHUNK):
            await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * _CHUNK)
        async with database.acquire() as connection:
            await connection.execute("CHECKPOINT")
        async with process("-m", "benchmarks.noop_worker", DATABASE_URL=url) as worker:
            await worker.wait()
        stats = await jobs.of(DEFAULT_TENANT).stats()
        page = await jobs.of(DEFAULT_TENANT).list(JobFilter(status=[Status.PENDING, Status.RUNNING]), limit=1)
        if stats.totals.completed != JOBS or page.jobs:
            raise RuntimeError(f"not all jobs were completed: {stats.totals}")
        async with database.acquire() as connection:
            span = await connection.fetchrow("SELECT min(started_at) AS first, max(finished_at) AS last FROM done")
        assert span is not None
        seconds: float = (span["last"] - span["first"]).total_seconds()
        return JOBS / seconds
