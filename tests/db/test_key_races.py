"""Concurrency keys under races: the rule is never exceeded, no place leaks, and no admission is lost."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, suppress

import pytest

from penstock.errors import CallerError, DatabaseUnavailable
from penstock.failures import Category
from penstock.housekeeping.admitter import Admitter
from penstock.housekeeping.rescuer import Rescuer, rescue_from
from penstock.jobs.limits import JobLimits
from penstock.jobs.sql import keys, store
from penstock.jobs.sql.rows import Connection, LimitedKey
from penstock.jobs.work import ClaimedJob, JobCompletion
from penstock.postgres.pool import Database
from tests.support.databases import execute, open_database, query
from tests.support.duties import promote
from tests.support.jobs import JobCaller, claim_rows, job_service
from tests.support.keys import blocked, limit, settled
from tests.support.waiting import until, within

KEYS = ("a", "b", "c")
JOBS = 120

_HELD = """
SELECT coalesce(max(running), 0), coalesce(max(places), 0) FROM (
    SELECT concurrency_key, count(*) FILTER (WHERE leased) AS running, count(*) AS places
    FROM (SELECT concurrency_key, false AS leased FROM ready UNION ALL SELECT concurrency_key, true FROM lease) p
    GROUP BY concurrency_key
) k
"""
_KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND application_name = 'killed'
ORDER BY random() LIMIT 1
"""


@pytest.fixture
async def processes(database_url: str, alone: JobCaller) -> AsyncIterator[list[JobCaller]]:
    """Eight callers of one tenant in four services, as in four processes."""
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(4):
            database = await stack.enter_async_context(open_database(database_url, application_name="killed"))
            service = await stack.enter_async_context(job_service(database))
            callers += [JobCaller(service, alone.tenant)] * 2
        yield callers


@pytest.mark.parametrize("cap", [1, 2, 7])
async def test_no_snapshot_shows_more_jobs_of_a_key_than_the_rule_allows(
    cap: int, alone: JobCaller, processes: list[JobCaller], fresh: Database
) -> None:
    """Eight workers race, while jobs are cancelled, retried, failed and rescued and connections are killed."""
    await limit(alone, cap)
    chance = random.Random(cap)
    made = []
    for number in range(JOBS):
        job = await processes[number % 8].submit(
            concurrency_key=chance.choice(KEYS), priority=chance.choice((0, 5)), max_attempts=50
        )
        made.append(job.id)
    rescuer = Rescuer(fresh, JobLimits(), alone.service.wakeups)
    over = False

    async def work(caller: JobCaller, name: str) -> None:
        while not over:
            with suppress(DatabaseUnavailable):
                for job in await caller.claim(3, worker_id=name, wait_seconds=0.05):
                    await _end(caller, job, name, chance, fresh)

    async def disturb() -> None:
        for turn in itertools.count():
            if over:
                return
            for change in (alone.cancel, alone.retry):
                with suppress(CallerError):
                    await change(chance.choice(made))
            await rescuer.once()
            if turn % 5 == 0:
                await query(fresh, _KILL)

    tasks = [asyncio.create_task(work(caller, f"w{number}")) for number, caller in enumerate(processes)]
    tasks.append(asyncio.create_task(disturb()))
    highest = (0, 0)
    try:
        async with asyncio.timeout(30):
            for _ in range(150):
                ((running, places),) = await query(fresh, _HELD)
                highest = max(highest[0], running), max(highest[1], places)
                await asyncio.sleep(0)
    finally:
        over = True
        await asyncio.gather(*tasks)
    assert highest[0] <= highest[1] == cap
    await rescue_from(fresh, JobLimits(), [f"w{number}" for number in range(8)])
    await settled(alone, *processes)
    await Admitter(fresh, alone.service.wakeups).once()
    await promote(fresh)
    await _assert_all_places_are_used(fresh, cap)
    await _finish_all(alone)
    assert await query(fresh, "SELECT 1 FROM ready UNION ALL SELECT 1 FROM later UNION ALL SELECT 1 FROM lease") == []


async def test_two_ends_at_one_moment_admit_two_jobs(alone: JobCaller, fresh: Database, database_url: str) -> None:
    """Each admission sees its own end; the second also waits for the first admission, whose lock it needs."""
    held, key = await _two_running(alone)
    async with open_database(database_url) as far, fresh.acquire() as one, far.acquire() as other:
        await _complete(one, alone, held[0])
        await _complete(other, alone, held[1])
        transaction = one.transaction()
        await transaction.start()
        (first,) = await keys.admit(one, [key], at_most=10)
        assert first.admitted == 2, "it sees both ends"
        second = asyncio.create_task(keys.admit(other, [key], at_most=10))
        await until(lambda: _waits_for_lock(fresh), "the second admission waits for the first")
        await transaction.commit()
        assert [found.admitted for found in await within(second)] == [0]
    assert len(await alone.claim(10)) == 2


async def test_an_end_that_commits_after_an_admission_began_is_not_lost(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    """The first admission does not see the second end, which therefore has an admission of its own."""
    held, key = await _two_running(alone)
    async with open_database(database_url) as far, fresh.acquire() as one, far.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await _complete(other, alone, held[1])
        await _complete(one, alone, held[0])
        assert [found.admitted for found in await keys.admit(one, [key], at_most=10)] == [1]
        await transaction.commit()
        assert await blocked(fresh) == 1
        assert [found.admitted for found in await keys.admit(other, [key], at_most=10)] == [1]
    assert len(await alone.claim(10)) == 2


async def test_an_end_that_commits_while_an_admission_waits_for_its_lock_is_counted(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    """The statement that counts has a newer snapshot than the one that took the lock."""
    held, key = await _two_running(alone)
    async with open_database(database_url) as far, fresh.acquire() as one, far.acquire() as other:
        await _complete(one, alone, held[0])
        transaction = one.transaction()
        await transaction.start()
        assert [found.admitted for found in await keys.admit(one, [key], at_most=1)] == [1]
        second = asyncio.create_task(_admit_after_end(other, alone, held[1], key))
        await until(lambda: _waits_for_lock(fresh), "the second admission waits for the first")
        await transaction.commit()
        assert await within(second) == [1]
    assert len(await alone.claim(10)) == 2


async def test_a_job_that_becomes_blocked_while_the_last_place_is_freed_is_admitted(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    """The submit and the end do not see each other; the admission that comes last sees both."""
    await limit(alone, 1)
    await alone.submit(concurrency_key="a")
    await settled(alone)
    job = await alone.claim_one()
    key = await _key(fresh)
    async with open_database(database_url) as far, fresh.acquire() as one, far.acquire() as other:
        ending, submitting = one.transaction(), other.transaction()
        await ending.start()
        await submitting.start()
        await _complete(one, alone, job)
        await other.execute(_BLOCKED_COPY)
        await ending.commit()
        assert await keys.admit(one, [key], at_most=10) == [], "the blocked job is not committed yet"
        await submitting.commit()
        assert [found.admitted for found in await keys.admit(other, [key], at_most=10)] == [1]


async def test_a_claim_in_progress_keeps_its_job_from_making_way(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    """An urgent job does not get the place of a job that is being claimed, also if the claim is rolled back."""
    await limit(alone, 1)
    await alone.submit(concurrency_key="a", priority=-5)
    await settled(alone)
    async with open_database(database_url) as far, far.acquire() as claiming:
        for outcome in ("rollback", "commit"):
            transaction = claiming.transaction()
            await transaction.start()
            assert len(await claim_rows(claiming, alone.tenant, limit=5, from_start=True)) == 1
            await alone.submit(concurrency_key="a", priority=5)
            await settled(alone)
            assert await query(fresh, _HELD) == [(0, 1)]
            await getattr(transaction, outcome)()
            if outcome == "rollback":
                await Admitter(fresh, alone.service.wakeups).once()
                assert [job.priority for job in await alone.claim(5)] == [5]
                await execute(fresh, "DELETE FROM lease")
                await Admitter(fresh, alone.service.wakeups).once()
    assert await query(fresh, _HELD) == [(1, 1)]


async def test_admissions_of_the_same_keys_in_opposite_orders_do_not_deadlock(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    await limit(alone, 1)
    names = [f"k{number}" for number in range(20)]
    for name in names:
        await alone.submit_many(8, concurrency_key=name)
    await settled(alone)
    (lane,) = {lane for lane, _ in await _keys(fresh)}

    async def end_and_admit(database: Database, order: Sequence[str]) -> None:
        async with database.acquire() as connection:
            await connection.execute("SET deadlock_timeout = '20ms'")
            for _ in range(6):
                await connection.execute("DELETE FROM lease WHERE job_id IN (SELECT job_id FROM lease LIMIT 10)")
                await keys.admit(connection, [(lane, name) for name in order], at_most=10)
                await claim_rows(connection, alone.tenant, limit=10, from_start=True)

    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_database(database_url)) for _ in range(4)]
        runs: list[Awaitable[None]] = [
            end_and_admit(each, names if number % 2 else names[::-1]) for number, each in enumerate(others)
        ]
        await within(asyncio.gather(*runs), 30)


_BLOCKED_COPY = """
INSERT INTO later (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                   concurrency_key)
SELECT tenant_id, gen_random_uuid(), lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
       concurrency_key FROM lease
"""


async def _two_running(caller: JobCaller) -> tuple[list[ClaimedJob], LimitedKey]:
    """Let two jobs of a key run while two more are blocked."""
    await limit(caller, 2)
    await caller.submit_many(4, concurrency_key="a")
    await settled(caller)
    held = await caller.claim(10)
    assert len(held) == 2
    return held, await _key(caller.service._shared.database)


async def _admit_after_end(connection: Connection, caller: JobCaller, job: ClaimedJob, key: LimitedKey) -> list[int]:
    await _complete(connection, caller, job)
    return [found.admitted for found in await keys.admit(connection, [key], at_most=10)]


async def _complete(connection: Connection, caller: JobCaller, job: ClaimedJob) -> None:
    """Execute the statement alone, without the admission that follows it in a process."""
    done = await store.complete(connection, caller.tenant, [JobCompletion(id=job.id, epoch=job.epoch)])
    assert len(done.freed) == 1


async def _keys(database: Database) -> list[LimitedKey]:
    rows = await query(
        database,
        "SELECT DISTINCT lane_id, concurrency_key FROM ready UNION SELECT DISTINCT lane_id,"
        " concurrency_key FROM lease ORDER BY 1, 2",
    )
    return [(lane, key) for lane, key in rows]


async def _key(database: Database) -> LimitedKey:
    (found,) = await _keys(database)
    return found


async def _assert_all_places_are_used(database: Database, cap: int) -> None:
    """Assert that nothing has leaked: of each key, as many jobs are ready as may run, or all that there are."""
    rows = await query(
        database,
        "SELECT concurrency_key, count(*) FILTER (WHERE is_ready), count(*)"
        " FROM (SELECT concurrency_key, true AS is_ready FROM ready"
        "       UNION ALL SELECT concurrency_key, false FROM later WHERE run_at IS NULL) p GROUP BY 1",
    )
    for key, ready, pending in rows:
        assert ready == min(cap, pending), key


async def _finish_all(caller: JobCaller) -> None:
    """Run every job that is left; each end admits the next."""
    async with asyncio.timeout(60):
        while True:
            await settled(caller)
            jobs = await caller.claim(100)
            if not jobs:
                await promote(caller.service._shared.database)
                await settled(caller)
                jobs = await caller.claim(100)
                if not jobs:
                    return
            await asyncio.gather(*(caller.complete(job) for job in jobs))


async def _end(caller: JobCaller, job: ClaimedJob, name: str, chance: random.Random, database: Database) -> None:
    """End an attempt in one of the ways in which attempts end, or leave it to the rescuer."""
    try:
        match chance.randrange(6):
            case 0:
                await caller.complete(job)
            case 1:
                await caller.fail(job, Category.SHUTDOWN)
            case 2:
                await caller.fail(job, Category.BAD_INPUT)
            case 3:
                await caller.retry(job.id)
            case 4:
                await rescue_from(database, JobLimits(), [name])
            case _:
                pass
    except CallerError:
        pass  # cancelled, retried or rescued by another


async def _waits_for_lock(database: Database) -> bool:
    rows = await query(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(rows[0][0])
