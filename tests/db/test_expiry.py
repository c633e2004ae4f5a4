"""Jobs that no worker claims in time end once, whatever happens at the same moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from penstock.errors import IdempotencyConflict, WrongState
from penstock.housekeeping.expirer import Expirer
from penstock.jobs.job import Job
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from tests.support.clocks import Clock
from tests.support.databases import query, tables_holding
from tests.support.duties import promote
from tests.support.jobs import JobCaller, claim_rows, submission, take
from tests.support.waiting import until, within


async def expire(database: Database) -> None:
    """Run one pass of the expirer."""
    await Expirer(database, Wakeups(database)).once()


async def rows_of_expiry(database: Database) -> int:
    ((count,),) = await query(database, "SELECT count(*) FROM expiry")
    return int(count)


async def assert_expired(caller: JobCaller, job: Job) -> None:
    found = await caller.get(job.id)
    assert (found.status, found.attempt, found.worker_id) == (Status.FAILED, 0, None)
    assert found.error is not None
    assert found.error.category == "expired"
    assert "no worker took the job until 20" in found.error.message


@pytest.mark.parametrize("scheduled", [False, True])
async def test_a_job_that_no_worker_claims_expires_once(
    alone: JobCaller, fresh: Database, fresh_clock: Clock, scheduled: bool
) -> None:
    run_at = datetime.now(UTC) + timedelta(seconds=30) if scheduled else None
    job = await alone.submit(ttl_seconds=60, run_at=run_at)
    assert job.expires_at == job.created_at + timedelta(seconds=60)
    assert await alone.get(job.id) == job
    await expire(fresh)
    assert await alone.status(job.id) is Status.PENDING
    await fresh_clock.advance(timedelta(seconds=61))
    await asyncio.gather(*(expire(fresh) for _ in range(5)))
    await assert_expired(alone, job)
    assert await tables_holding(fresh, job.id) == ["done"]
    assert await alone.history(job.id) == ["job.created", "job.failed"]
    totals = (await alone.service.of(alone.tenant).stats()).totals
    assert (totals.pending, totals.failed, totals.errors) == (0, 1, {})
    assert await rows_of_expiry(fresh) == 0


async def test_a_job_that_was_claimed_in_time_no_longer_expires(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    job = await alone.submit(expires_at=at, max_attempts=5)
    claimed = await alone.claim_one()
    await fresh_clock.advance(timedelta(seconds=61))
    await expire(fresh)
    assert await alone.status(job.id) is Status.RUNNING
    await alone.fail(claimed)
    await expire(fresh)
    assert await alone.status(job.id) is Status.PENDING, "it is tried again as any other job"
    assert await rows_of_expiry(fresh) == 0


async def test_a_waiting_caller_is_notified_of_the_end_at_once(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    job = await alone.submit(ttl_seconds=5)
    waiting = asyncio.create_task(alone.service.of(alone.tenant).wait(job.id, timedelta(seconds=30)))
    await fresh_clock.advance(timedelta(seconds=6))
    await Expirer(fresh, alone.service.wakeups).once()
    assert (await within(waiting)).status is Status.FAILED


async def test_a_retry_gives_an_expired_job_all_the_time_it_needs(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    job = await alone.submit(ttl_seconds=1)
    await fresh_clock.advance(timedelta(seconds=2))
    await expire(fresh)
    assert (await alone.retry(job.id)).status is Status.PENDING
    await fresh_clock.advance(timedelta(days=2))
    await expire(fresh)
    assert (await alone.claim_one()).id == job.id
    types = [event.type for event in await take(alone.events(job.id), 3)]
    assert types == ["job.created", "job.failed", "job.retried"]


async def test_a_cancelled_job_does_not_expire_too(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    job = await alone.submit(ttl_seconds=1)
    await alone.cancel(job.id)
    await fresh_clock.advance(timedelta(seconds=2))
    await expire(fresh)
    assert await alone.status(job.id) is Status.CANCELLED
    assert await rows_of_expiry(fresh) == 0


@pytest.mark.parametrize("claim_holds", [True, False])
async def test_a_claim_in_progress_decides(
    alone: JobCaller, fresh: Database, fresh_clock: Clock, claim_holds: bool
) -> None:
    """The expirer waits for it: a job that is being leased does not expire, unless that is undone."""
    job = await alone.submit(ttl_seconds=1)
    await fresh_clock.advance(timedelta(seconds=2))
    async with fresh.acquire() as connection:
        claiming = connection.transaction()
        await claiming.start()
        assert [row["job_id"] for row in await claim_rows(connection, alone.tenant, limit=1)] == [job.id]
        expiring = asyncio.create_task(expire(fresh))
        await _until_blocked(fresh)
        await (claiming.commit() if claim_holds else claiming.rollback())
    await within(expiring)
    if claim_holds:
        assert await tables_holding(fresh, job.id) == ["lease"]
        await expire(fresh)
        assert await tables_holding(fresh, job.id) == ["lease"]
        assert await rows_of_expiry(fresh) == 0
    else:
        await expire(fresh)
        await assert_expired(alone, job)
    assert len(await tables_holding(fresh, job.id)) == 1


async def test_a_job_that_is_just_becoming_ready_expires_at_the_next_pass(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    job = await alone.submit(run_at=datetime.now(UTC) + timedelta(seconds=1), ttl_seconds=2)
    await fresh_clock.advance(timedelta(seconds=3))
    async with fresh.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM later WHERE job_id = $1 FOR UPDATE", job.id)
        expiring = asyncio.create_task(expire(fresh))
        await _until_blocked(fresh)
        moved = "WITH moved AS (DELETE FROM later WHERE job_id = $1 RETURNING *) INSERT INTO ready (tenant_id, job_id,"
        columns = "lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes, enqueued_at"
        await connection.execute(f"{moved} {columns}) SELECT tenant_id, job_id, {columns} FROM moved", job.id)
    await within(expiring)
    assert await alone.status(job.id) is Status.PENDING
    await expire(fresh)
    await assert_expired(alone, job)


async def test_expiring_and_claiming_at_once_give_each_job_one_end(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    jobs = await alone.submit_many(400, ttl_seconds=1)
    await fresh_clock.advance(timedelta(seconds=2))
    taken: list[UUID] = []

    async def claim() -> None:
        while found := await alone.claim(7):
            taken.extend(job.id for job in found)

    async def sweep() -> None:
        for _ in range(20):
            await expire(fresh)

    async def cancel() -> None:
        for job in jobs[::9]:
            with suppress(WrongState):  # it has expired
                await alone.cancel(job.id)

    await asyncio.gather(claim(), claim(), sweep(), sweep(), cancel(), promote(fresh))
    await expire(fresh)
    for job in jobs:
        assert len(await tables_holding(fresh, job.id)) == 1
    page = await alone.page(limit=500)
    failed = {job.id for job in page.jobs if job.status is Status.FAILED}
    assert not failed & set(taken)
    assert len(taken) == len(set(taken))
    totals = (await alone.service.of(alone.tenant).stats()).totals
    assert totals.failed == len(failed)
    assert totals.pending == 0
    assert totals.running + totals.failed + totals.cancelled == 400


async def test_the_same_key_with_a_different_expiry_is_a_different_request(alone: JobCaller) -> None:
    jobs = alone.service.of(alone.tenant)
    first = await jobs.submit(submission(idempotency_key="k", ttl_seconds=60))
    again = await jobs.submit(submission(idempotency_key="k", ttl_seconds=60))
    assert (again.created, again.job.id) == (False, first.job.id)
    for other in ({}, {"ttl_seconds": 61}):
        with pytest.raises(IdempotencyConflict):
            await jobs.submit(submission(idempotency_key="k", **other))


async def _until_blocked(database: Database) -> None:
    """Wait until a statement waits for a lock."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def blocked() -> bool:
        return bool((await query(database, sql))[0][0])

    await until(blocked, "a statement waits for a lock")
