"""Long transactions: a job committed late is not lost behind the hints, and claims stay fast around dead rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from penstock.housekeeping.hints import Hints
from penstock.jobs.sql import names, store
from penstock.jobs.sql.rows import Connection, NewJob
from penstock.postgres.pool import Database
from tests.support.databases import execute, open_database, query
from tests.support.jobs import JobCaller, claim_rows, job_service, submission
from tests.support.waiting import within


async def _open_submit(connection: Connection, caller: JobCaller) -> UUID:
    """Submit within the connection's open transaction and return the job's id."""
    series = await names.resolve_series(connection, caller.tenant, [("tests", "echo", "small")])
    lanes = await names.resolve_lanes(connection, caller.tenant, [("echo", "small", 0, False)])
    submitters = await names.resolve_submitters(connection, caller.tenant, [("", "")])
    new = NewJob(
        id=uuid7(),
        series_id=next(iter(series.values())),
        lane_id=next(iter(lanes.values())),
        submitter_id=next(iter(submitters.values())),
        max_attempts=3,
        submission=submission(),
    )
    await store.create(connection, caller.tenant, [new])
    return new.id


@asynccontextmanager
async def _long_transaction(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a snapshot open that keeps vacuum from removing rows that die meanwhile."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT count(*) FROM penstock.tenant")
            yield connection
    finally:
        await connection.close()


async def _hint(database: Database) -> int:
    ((hint,),) = await query(database, "SELECT max(low_seq) FROM lane")
    return int(hint)


async def _pass_by(caller: JobCaller, count: int) -> None:
    """Submit and claim that many jobs."""
    await caller.submit_many(count)
    taken = 0
    while taken < count:
        taken += len(await caller.claim(1000))


async def test_a_job_committed_late_is_claimed_after_the_next_pass_over_the_hints(
    alone: JobCaller, fresh: Database
) -> None:
    await alone.submit()  # creates the names, so that the late transaction need not
    await alone.claim_one()
    hints = Hints(fresh)
    async with open_database(fresh.url) as late, late.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        late_id = await _open_submit(connection, alone)
        for _ in range(3):
            await _pass_by(alone, 800)
            await _raise(hints)
        assert await _hint(fresh) > 1000
        await transaction.commit()
    async with fresh.acquire() as other:
        assert await claim_rows(other, alone.tenant, limit=1) == [], "it lies before the hint"
        await _raise(hints)
        (row,) = await claim_rows(other, alone.tenant, limit=1)
    assert row["job_id"] == late_id


async def test_a_job_committed_late_is_claimed_soon_even_without_a_housekeeper(
    alone: JobCaller, fresh: Database
) -> None:
    await alone.submit()
    await alone.claim_one()
    async with open_database(fresh.url) as late, late.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        late_id = await _open_submit(connection, alone)
        for _ in range(3):
            await _pass_by(alone, 800)
            await _raise(Hints(fresh))
        await transaction.commit()
    (job,) = await within(alone.claim(1, wait_seconds=8), 8)
    assert job.id == late_id


async def test_late_commits_among_busy_submitters_and_claimers_are_all_claimed(
    alone: JobCaller, fresh: Database
) -> None:
    """Transactions have all lengths, hints rise all the time, and several claimers have their own cursors."""
    await alone.submit()
    await alone.claim_one()
    hints = Hints(fresh)
    made: set[UUID] = set()
    taken: set[UUID] = set()

    async def late_submitter(number: int) -> None:
        async with open_database(fresh.url, max_size=1) as database:
            for _ in range(6):
                async with database.acquire() as connection, connection.transaction():
                    late_id = await _open_submit(connection, alone)
                    made.update([late_id])
                    for _ in range(number * 3):
                        await connection.fetchval("SELECT pg_sleep(0.01)")

    async def busy_submitter() -> None:
        for _ in range(25):
            made.update(job.id for job in await alone.submit_many(60))
            await _raise(hints)

    async def claimer(stack: JobCaller) -> None:
        while len(taken) < 24 + 25 * 60:
            taken.update(job.id for job in await stack.claim(50, wait_seconds=0.2))

    async with open_database(fresh.url) as far, job_service(far) as service:
        submitters = [late_submitter(number) for number in range(4)]
        claimers = [claimer(alone), claimer(JobCaller(service, alone.tenant))]
        await within(asyncio.gather(*submitters, busy_submitter(), *claimers), 20)
    assert taken == made


async def test_a_claim_steps_over_the_dead_rows_that_a_long_transaction_keeps(
    alone: JobCaller, fresh: Database
) -> None:
    hints = Hints(fresh)
    async with _long_transaction(fresh.url):
        for _ in range(4):
            await _pass_by(alone, 2500)
            await _raise(hints)
        await execute(fresh, "VACUUM ready")
        await alone.submit_many(50)
        await _raise(hints)
        with_hint = await _buffers(fresh, alone, from_start=False)
        without = await _buffers(fresh, alone, from_start=True)
    assert with_hint + 200 < without, "the hint avoids a scan of dead rows"


async def test_claims_stay_complete_while_a_transaction_is_held_open(alone: JobCaller, fresh: Database) -> None:
    async with _long_transaction(fresh.url):
        for _ in range(5):
            made = {job.id for job in await alone.submit_many(300)}
            await _raise(Hints(fresh))
            assert {job.id for job in await alone.claim(1000)} == made


async def test_a_hint_never_passes_a_job_that_waits(alone: JobCaller, fresh: Database) -> None:
    await alone.submit(priority=-5)
    await _pass_by_high(alone, 2000)
    for _ in range(3):
        await _raise(Hints(fresh))
    passed = await query(fresh, "SELECT 1 FROM ready r JOIN lane n ON n.id = r.lane_id WHERE r.seq < n.low_seq")
    assert passed == []
    assert len(await alone.claim(10)) == 1


async def test_an_old_jobs_wait_is_reported_while_hints_rise(alone: JobCaller, fresh: Database) -> None:
    await alone.submit(priority=-5)
    await _pass_by_high(alone, 1200)
    await _raise(Hints(fresh))
    waited = (await alone.service.of(alone.tenant).stats()).oldest_pending_seconds
    assert waited is not None
    assert timedelta(seconds=waited) > timedelta(0)


async def _pass_by_high(caller: JobCaller, count: int) -> None:
    await caller.submit_many(count, priority=5)
    taken = 0
    while taken < count:
        taken += len(await caller.claim(min(1000, count - taken)))


async def _raise(hints: Hints) -> None:
    """Run a pass without waiting for its turn."""
    hints._not_before = 0.0
    await hints.once()


async def _buffers(database: Database, caller: JobCaller, *, from_start: bool) -> int:
    """Return how many pages of the ready table and its index a claim touches; roll the claim back."""
    statement = store._sql.claim
    values = (
        f"{caller.tenant}, NULL, 'w', '{{}}', '{{}}', 5, 60, '{{}}', '{{}}', '{{}}', '{{}}', {str(from_start).lower()}"
    )
    order = [
        "only_tenant",
        "tenant_names",
        "worker_id",
        "task_types",
        "model_profiles",
        "limit",
        "lease_seconds",
        "turn_tenants",
        "turn_quanta",
        "cursor_lanes",
        "cursor_seqs",
        "from_start",
    ]
    by_name = dict(zip(order, values.split(", "), strict=True))
    values = ", ".join(by_name[name] for name in statement._order)
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"PREPARE measured AS {statement.sql.rstrip().rstrip(';')}")
            explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE measured({values})"
            (plan,) = json.loads(bytes(await connection.fetchval(explained)))
        finally:
            await transaction.rollback()
            await connection.execute("DEALLOCATE ALL")
    return _ready_pages(plan["Plan"])


def _ready_pages(node: dict[str, object]) -> int:
    children = node.get("Plans", [])
    assert isinstance(children, list)
    own = 0
    if node.get("Relation Name") == "ready" and "Scan" in str(node["Node Type"]):
        own = int(str(node["Shared Hit Blocks"])) + int(str(node["Shared Read Blocks"]))
    return own + sum(_ready_pages(child) for child in children)
