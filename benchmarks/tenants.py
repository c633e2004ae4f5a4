"""Claims among many tenants, and the throughput of a queue with a limit of running jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from benchmarks.figures import Figure, Spread
from benchmarks.ground import SUBMISSION, fresh_database, service
from penstock.access.audit import Sender
from penstock.jobs.controls import QueueLimit, TenantLimits
from penstock.jobs.key_rules import KeyRule, KeyRuleChange
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob, ClaimRequest, JobCompletion
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR, TenantId
from penstock.work.context import JobContext
from penstock.work.executors import Executors
from penstock.workers.worker import Worker

TENANTS: Final = 200
READY: Final = 1_000_000  # jobs of the one tenant that has many
_WORKERS, _LIMIT, _SECONDS = 8, 2, 0.02
BLOCKED: Final = 10_000
_SENDER: Final = Sender(principal=OPERATOR, address="")
_CLAIM = ClaimRequest(worker_id="bench", task_types=["noop"], limit=32)

# A day's ids in random order, like those of the one job that there is.
_FILL = """
WITH ids AS MATERIALIZED (
    SELECT (left(low::text, 14) || '7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3) || '-'
            || substr(noise, 7, 12))::uuid AS id
    FROM generate_series(1, $1::int) n,
         LATERAL (SELECT uuid_floor(now()) AS low, md5(n::text || random()::text) AS noise) x
), origin AS MATERIALIZED (
    SELECT series_id, lane_id, submitter_id, input, owner_ref, user_id FROM job LIMIT 1
), j AS (
    INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts,
                     created_at)
    SELECT 1, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, 3, now() FROM ids, origin
)
INSERT INTO ready (tenant_id, job_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, enqueued_at)
SELECT 1, id, lane_id, series_id, submitter_id, octet_length(input::text), 3, now() FROM ids, origin
"""


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure claims of 32 jobs by turns on databases that differ in their tenants only; each latency is a p50."""
    async with AsyncExitStack() as stack:
        grounds = []
        for tenants, each in ((1, 0), (TENANTS, 0), (TENANTS, 200)):
            url = await stack.enter_async_context(fresh_database(server))
            jobs, database = await stack.enter_async_context(service(url))
            await _fill(jobs, database, tenants=tenants, each=each)
            grounds.append(jobs)
        one, idle, busy = await _by_turns(grounds)
    rate = await _limited(server, _limit_queue)
    by_key = await _limited(server, _limit_key)
    without, beside = await _blocked(server)
    return [
        Figure(scenario="claim of 32, one tenant with 1 M ready, p50", value=one.p50, unit="ms", note=str(one)),
        Figure(
            scenario="the same among 200 tenants, the others idle: ratio",
            value=idle.p50 / one.p50,
            unit="×",
            promise=1.5,
            at_most=True,
            note=str(idle),
        ),
        Figure(
            scenario="the same, the others with 200 jobs each: ratio",
            value=busy.p50 / one.p50,
            unit="×",
            note=str(busy),
        ),
        Figure(
            scenario="a queue limited to 2 running jobs of 20 ms, 8 workers",
            value=rate,
            unit="/s",
            promise=90,
            note="at most 100",
        ),
        Figure(
            scenario="a concurrency key limited to 2 running jobs of 20 ms, 8 workers",
            value=by_key,
            unit="/s",
            promise=90,
            note="at most 100",
        ),
        Figure(
            scenario=f"claim of 32 beside {BLOCKED:,} blocked jobs of one key: ratio",
            value=beside.p50 / without.p50,
            unit="×",
            promise=1.1,
            at_most=True,
            note=str(beside),
        ),
    ]


async def _fill(jobs: JobService, database: Database, *, tenants: int, each: int) -> None:
    """Give the first tenant a million ready jobs, and others lanes with ``each`` jobs."""
    await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION])
    async with database.acquire() as connection:
        await connection.execute("SET statement_timeout = 0")
        for _ in range(READY // 100_000):
            await connection.execute(_FILL, 100_000, timeout=300)
        for number in range(2, tenants + 1):
            await connection.execute("INSERT INTO tenant (id, name) VALUES ($1, $2)", number, f"tenant-{number}")
    for number in range(2, tenants + 1):
        await jobs.of(TenantId(number)).submit_many([SUBMISSION] * max(each, 1))
    async with database.acquire() as connection:
        if not each:
            await connection.execute("DELETE FROM ready WHERE tenant_id <> 1")
        await connection.execute("VACUUM ANALYZE ready, lease, lane", timeout=300)
        await connection.execute("CHECKPOINT", timeout=300)
        await connection.execute("SET statement_timeout = '20s'")


async def _by_turns(grounds: list[JobService]) -> list[Spread]:
    samples: list[list[float]] = [[] for _ in grounds]
    for number in range(600):
        for jobs, taken in zip(grounds, samples, strict=True):
            began = time.perf_counter()
            claimed = await jobs.claim(_CLAIM)
            if number >= 50:
                taken.append(time.perf_counter() - began)
            if len(claimed) < _CLAIM.limit / 2:
                raise RuntimeError("too few jobs to claim")
            await _complete(jobs, claimed)
    return [Spread.of(one) for one in samples]


async def _complete(jobs: JobService, claimed: list[ClaimedJob]) -> None:
    by_tenant: dict[str, list[JobCompletion]] = {}
    for job in claimed:
        by_tenant.setdefault(job.tenant, []).append(JobCompletion(id=job.id, epoch=job.epoch))
    await asyncio.gather(*(jobs.named(name).complete_many(done) for name, done in by_tenant.items()))


async def _blocked(server: EmbeddedServer) -> list[Spread]:
    """Measure claims by turns on two databases of which the second also holds blocked jobs of one key."""
    async with AsyncExitStack() as stack:
        grounds = []
        for blocked in (0, BLOCKED):
            url = await stack.enter_async_context(fresh_database(server))
            jobs, database = await stack.enter_async_context(service(url))
            await _limit_key(jobs)
            if blocked:
                await jobs.of(DEFAULT_TENANT).submit_many([replace(SUBMISSION, concurrency_key="busy")] * blocked)
            await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * 10_000)
            await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * 10_000)
            async with database.acquire() as connection:
                await connection.execute("VACUUM ANALYZE ready, later, lease, lane", timeout=300)
            grounds.append(jobs)
        return await _by_turns(grounds)


async def _limit_queue(jobs: JobService) -> None:
    queue = QueueLimit(task_type="noop", model_profile="none", max_running=_LIMIT)
    await jobs.controls.set_limits(_SENDER, "default", TenantLimits(queues=[queue]))


async def _limit_key(jobs: JobService) -> None:
    rule = KeyRule(max_running=_LIMIT)
    await jobs.key_rules.set(_SENDER, KeyRuleChange(task_type="noop", model_profile="none", rule=rule))


async def _limited(server: EmbeddedServer, limit: Callable[[JobService], Awaitable[None]]) -> float:
    """Return the jobs per second of eight workers, each with a service of its own, where two jobs may run at a time."""
    ran: list[float] = []

    async def sleep(_job: ClaimedJob, _context: JobContext) -> None:
        await asyncio.sleep(_SECONDS)
        ran.append(time.perf_counter())

    async with fresh_database(server) as url, AsyncExitStack() as stack:
        services = [(await stack.enter_async_context(service(url)))[0] for _ in range(_WORKERS)]
        await limit(services[0])
        await services[0].of(DEFAULT_TENANT).submit_many([replace(SUBMISSION, concurrency_key="busy")] * 1500)
        workers = []
        for number, jobs in enumerate(services):
            executors = Executors()
            executors.add(sleep, task_types=["noop"], model_profiles=["none"])
            workers.append(
                Worker(jobs, worker_id=f"w{number}", executors=executors, limit=1, lease=timedelta(seconds=60))
            )
        running = [asyncio.create_task(worker.run()) for worker in workers]
        while len(ran) < 700:
            await asyncio.sleep(0.05)
        await asyncio.gather(*(worker.stop() for worker in workers))
        await asyncio.gather(*running)
    return 599 / (ran[699] - ran[100])
