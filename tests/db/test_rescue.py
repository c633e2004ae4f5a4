"""Jobs of dead workers are rescued; healthy workers lose nothing, even in an outage of the database."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from penstock.errors import StaleEpoch
from penstock.failures import Category
from penstock.housekeeping.rescuer import rescue_from
from penstock.jobs.limits import JobLimits
from penstock.jobs.states import RetryPolicy, Status
from penstock.jobs.work import HeartbeatResult
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant, tables_holding
from tests.support.duties import rescue, rescuer
from tests.support.jobs import JobCaller

LIMITS = JobLimits(cancel_grace=timedelta(seconds=30))


async def test_an_expired_lease_is_rescued_by_one_pass(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    job = await alone.submit_and_claim()
    await fresh_clock.advance(timedelta(minutes=15, seconds=1))
    await rescue(fresh)
    seen = await alone.get(job.id)
    assert seen.status is Status.PENDING
    assert [attempt.error.category for attempt in seen.attempts] == [Category.WORKER_LOST]
    again = await alone.claim_one()
    assert again.id == job.id
    assert again.epoch > job.epoch
    assert again.attempt == 2


async def test_a_lease_that_holds_is_left_alone(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    job = await alone.submit_and_claim()
    await fresh_clock.advance(timedelta(minutes=14))
    await rescue(fresh)
    assert await alone.status(job.id) is Status.RUNNING


async def test_a_heartbeat_keeps_the_lease(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    job = await alone.submit_and_claim()
    for _ in range(3):
        await fresh_clock.advance(timedelta(minutes=10))
        assert isinstance(await alone.beat(job), HeartbeatResult)
        await rescue(fresh)
    assert await alone.status(job.id) is Status.RUNNING


async def test_an_expired_lease_that_is_not_rescued_yet_can_still_be_extended(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    job = await alone.submit_and_claim()
    await fresh_clock.advance(timedelta(minutes=16))
    assert isinstance(await alone.beat(job), HeartbeatResult)
    await rescue(fresh)
    assert (await alone.complete(job)).status is Status.COMPLETED


async def test_after_a_gap_every_lease_gets_its_full_length_again(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    """While the database was unavailable, no worker could send a heartbeat; the rescue must not take them for dead."""
    await alone.submit()
    job = await alone.claim_one(lease_seconds=60.0)
    await rescue(fresh)  # on duty, then a gap of ten minutes
    await fresh_clock.advance(timedelta(minutes=10))
    passes = rescuer(fresh)
    await passes.once()
    assert await alone.status(job.id) is Status.RUNNING, "the gap gives it 60 s more"
    for _ in range(14):
        await fresh_clock.advance(timedelta(seconds=4))
        await passes.once()
    assert await alone.status(job.id) is Status.RUNNING, "56 s later it still holds"
    await fresh_clock.advance(timedelta(seconds=4, milliseconds=500))
    await passes.once()
    assert await alone.status(job.id) is Status.PENDING, "a worker that stayed silent for its whole length is dead"


async def test_a_cancelled_job_loses_its_lease_after_the_grace(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    job = await alone.submit_and_claim()
    assert (await alone.cancel(job.id)).cancel_requested_at is not None
    await fresh_clock.advance(timedelta(seconds=29))
    await rescue(fresh, LIMITS)
    assert await alone.status(job.id) is Status.RUNNING
    await fresh_clock.advance(timedelta(seconds=2))
    await rescue(fresh, LIMITS)
    assert await alone.status(job.id) is Status.CANCELLED
    failed = await asyncio.gather(alone.complete(job), return_exceptions=True)
    assert isinstance(failed[0], StaleEpoch)


async def test_many_rescuers_at_once_end_each_lease_once(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    jobs = await alone.submit_many(40)
    assert len(await alone.claim(40)) == 40
    await fresh_clock.advance(timedelta(minutes=16))
    await execute(fresh, "UPDATE housekeeping SET last_at = clock() WHERE duty = 'rescue'")
    await asyncio.gather(*(rescuer(fresh).once() for _ in range(6)))
    for job in jobs:
        seen = await alone.get(job.id)
        assert (seen.status, len(seen.attempts)) == (Status.PENDING, 1)
        assert await tables_holding(fresh, job.id) == ["ready"]


async def test_one_pass_rescues_the_jobs_of_every_tenant(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    callers = [alone, *[JobCaller(alone.service, await own_tenant(fresh)) for _ in range(2)]]
    jobs = [await caller.submit_and_claim() for _ in range(3) for caller in callers]
    await fresh_clock.advance(timedelta(minutes=16))
    await rescue(fresh)
    for number, job in enumerate(jobs):
        assert await callers[number % 3].status(job.id) is Status.PENDING
    for caller in callers:
        assert (await caller.service.of(caller.tenant).stats()).totals.pending == 3


async def test_a_job_whose_workers_keep_dying_ends_as_failed(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    limits = JobLimits(retry=RetryPolicy(max_lost_leases=2))
    job = await alone.submit(max_attempts=50)
    for _ in range(2):
        assert (await alone.claim_one()).id == job.id
        await fresh_clock.advance(timedelta(minutes=16))
        await rescue(fresh, limits)
    seen = await alone.get(job.id)
    assert seen.status is Status.FAILED
    assert seen.error is not None
    assert seen.error.category is Category.WORKER_LOST


async def test_jobs_of_a_worker_known_to_be_dead_are_requeued_at_once(alone: JobCaller, fresh: Database) -> None:
    await alone.submit_many(3)
    (lost,) = await alone.claim(1, worker_id="dead")
    (kept,) = await alone.claim(1, worker_id="alive")
    assert await rescue_from(fresh, JobLimits(), ["dead"]) == 1
    assert await alone.status(lost.id) is Status.PENDING
    assert await alone.status(kept.id) is Status.RUNNING
