"""Concurrency keys: jobs of a queue with the same key run at most as many at a time as its rule allows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from penstock.failures import Category
from penstock.housekeeping.admitter import Admitter
from penstock.housekeeping.expirer import Expirer
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant, query
from tests.support.duties import promote, rescue
from tests.support.jobs import JobCaller
from tests.support.keys import blocked, limit, places, settled
from tests.support.runs import PROFILE, ManualRun
from tests.support.waiting import until, within


async def test_no_more_jobs_of_a_key_run_than_the_rule_allows(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 2)
    await alone.submit_many(5, concurrency_key="a")
    await alone.submit_many(3, concurrency_key="b")
    await alone.submit_many(4)
    await settled(alone)
    jobs = await alone.claim(20)
    keys = [(await alone.get(job.id)).concurrency_key for job in jobs]
    assert (keys.count("a"), keys.count("b"), keys.count(None)) == (2, 2, 4)
    assert await alone.claim(20) == []
    assert await blocked(fresh) == 4


async def test_the_end_of_a_job_admits_the_next_one_of_its_key_in_order(alone: JobCaller) -> None:
    await limit(alone, 1)
    made = [job.id for job in await alone.submit_many(4, concurrency_key="a")]
    ran = []
    for _ in made:
        await settled(alone)
        (job,) = await alone.claim(10)
        ran.append(job.id)
        await alone.complete(job)
    assert ran == made
    await settled(alone)
    assert await alone.claim(10) == []


@pytest.mark.parametrize("end", ["complete", "fail", "cancelled", "retry", "rescue", "cancel ready", "expire ready"])
async def test_each_way_to_end_frees_the_place(end: str, alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    await limit(alone, 1)
    first = await alone.submit(concurrency_key="a", max_attempts=1, ttl_seconds=60)
    second = await alone.submit(concurrency_key="a")
    await settled(alone)
    match end:
        case "cancel ready":
            await alone.cancel(first.id)
        case "expire ready":
            await fresh_clock.advance(timedelta(seconds=61))
            await Expirer(fresh, alone.service.wakeups).once()
        case _:
            job = await alone.claim_one(lease_seconds=5)
            assert job.id == first.id
            match end:
                case "complete":
                    await alone.complete(job)
                case "fail":
                    await alone.fail(job, Category.BAD_INPUT)
                case "cancelled":
                    await alone.cancel(job.id)
                    await alone.fail(job, Category.CANCELLED)
                case "retry":
                    await alone.retry(job.id)
                case _:
                    await fresh_clock.advance(timedelta(seconds=6))
                    await rescue(fresh)
    await settled(alone)
    (job,) = await alone.claim(10)
    assert job.id == second.id
    assert await places(fresh) == 1


async def test_a_job_that_backs_off_holds_no_place(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    await limit(alone, 1)
    first, second = [job.id for job in await alone.submit_many(2, concurrency_key="a")]
    await settled(alone)
    await alone.fail(await alone.claim_one(), Category.INTERNAL, retry_after=30)
    await settled(alone)
    job = await alone.claim_one()
    assert job.id == second
    await fresh_clock.advance(timedelta(minutes=10))
    await promote(fresh)
    assert await alone.claim(10) == [], "its retry is due, and waits for a place"
    assert await blocked(fresh) == 1
    await alone.complete(job)
    await settled(alone)
    assert (await alone.claim_one()).id == first


async def test_a_scheduled_job_waits_for_a_place_when_it_is_due(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await limit(alone, 1)
    await alone.submit(concurrency_key="a", run_at=datetime.now(UTC) + timedelta(hours=1))
    await alone.submit(concurrency_key="a")
    await settled(alone)
    job = await alone.claim_one()
    await fresh_clock.advance(timedelta(hours=2))
    await promote(fresh)
    assert await alone.claim(10) == []
    await alone.complete(job)
    await settled(alone)
    assert len(await alone.claim(10)) == 1


async def test_an_urgent_job_takes_the_place_of_a_ready_one_but_not_of_a_running_one(
    alone: JobCaller, fresh: Database
) -> None:
    await limit(alone, 2)
    running = await alone.submit(concurrency_key="a", priority=-5)
    await settled(alone)
    await alone.claim_one()
    low = await alone.submit(concurrency_key="a", priority=-5)
    await settled(alone)
    high, higher = [await alone.submit(concurrency_key="a", priority=priority) for priority in (5, 7)]
    await settled(alone)
    assert [job.id for job in await alone.claim(10)] == [higher.id]
    assert await blocked(fresh) == 2
    assert await alone.status(running.id) is Status.RUNNING
    assert {await alone.status(job.id) for job in (low, high)} == {Status.PENDING}


async def test_exceptions_and_rules_for_all_tenants(alone: JobCaller, fresh: Database) -> None:
    """Where several rules concern a key, the smallest number holds."""
    other = JobCaller(alone.service, await own_tenant(fresh))
    await limit(alone, 2, {"big": 4})
    await limit(alone, 3, {"big": 3}, all_tenants=True)
    for caller in (alone, other):
        for key in ("big", "small"):
            await caller.submit_many(6, concurrency_key=key)
    await settled(alone)
    assert await _running_by_key(alone) == {"big": 3, "small": 2}
    assert await _running_by_key(other) == {"big": 3, "small": 3}


async def test_the_same_key_in_another_queue_is_another_key(alone: JobCaller) -> None:
    await limit(alone, 1)
    await alone.submit_many(2, concurrency_key="a")
    await alone.submit_many(2, concurrency_key="a", task_type="other")
    await settled(alone)
    assert sorted(job.task_type for job in await alone.claim(10)) == ["echo", "other", "other"]


async def test_a_new_rule_holds_for_jobs_that_were_ready_before(alone: JobCaller, fresh: Database) -> None:
    jobs = await alone.submit_many(10, concurrency_key="a")
    running = await alone.claim_one()
    await limit(alone, 3)
    assert len(await alone.claim(10)) == 2
    assert await blocked(fresh) == 7
    await limit(alone, 5)
    assert len(await alone.claim(10)) == 2
    await limit(alone, 1)
    await alone.complete(running)
    await settled(alone)
    assert await alone.claim(10) == [], "four are still running"
    await limit(alone, None)
    assert len(await alone.claim(10)) == 5
    assert {await alone.status(job.id) for job in jobs} == {Status.RUNNING, Status.COMPLETED}


async def test_a_new_rule_waits_for_a_submit_that_does_not_know_it(alone: JobCaller, fresh: Database) -> None:
    await alone.submit(concurrency_key="a")
    async with fresh.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(_COPY_READY)
        setting = asyncio.create_task(limit(alone, 1))
        await until(lambda: _has_rule(fresh), "the rule is committed")
        for _ in range(50):  # the change would end within a few statements if it did not wait
            assert await _has_rule(fresh)
        assert not setting.done()
        await transaction.commit()
        await within(setting)
    assert len(await alone.claim(10)) == 1


async def test_blocked_jobs_are_pending_and_can_be_cancelled_and_listed(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 1)
    jobs = await alone.submit_many(3, concurrency_key="a")
    await settled(alone)
    listed = await alone.page(concurrency_key="a", status=[Status.PENDING])
    assert len(listed.jobs) == 3
    assert all(job.run_at is None for job in listed.jobs)
    assert (await alone.service.of(alone.tenant).stats()).totals.pending == 3
    assert (await alone.cancel(jobs[2].id)).status is Status.CANCELLED
    await alone.complete(await alone.claim_one())
    await settled(alone)
    assert (await alone.claim_one()).id == jobs[1].id
    assert (await alone.service.of(alone.tenant).stats()).totals.pending == 0


async def test_blocked_jobs_expire(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    await limit(alone, 1)
    first, second = await alone.submit_many(2, concurrency_key="a", ttl_seconds=60)
    await settled(alone)
    await alone.claim_one()
    await fresh_clock.advance(timedelta(seconds=61))
    await Expirer(fresh, alone.service.wakeups).once()
    assert await alone.status(second.id) is Status.FAILED
    assert await alone.status(first.id) is Status.RUNNING


async def test_the_housekeeper_admits_what_a_killed_process_left(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 2)
    await alone.submit_many(6, concurrency_key="a")
    await settled(alone)
    jobs = await alone.claim(10)
    await execute(fresh, "DELETE FROM lease WHERE job_id = $1", jobs[0].id)
    assert await alone.claim(10) == []
    await Admitter(fresh, alone.service.wakeups).once()
    assert len(await alone.claim(10)) == 1


async def test_the_housekeeper_finishes_a_change_that_a_killed_process_began(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 4)
    await alone.submit_many(6, concurrency_key="a")
    await settled(alone)
    await execute(fresh, "UPDATE key_rule SET max_running = 1")
    await execute(
        fresh, "INSERT INTO key_change VALUES ('echo', 'small', $1, now() - interval '1 minute')", alone.tenant
    )
    await Admitter(fresh, alone.service.wakeups).once()
    assert len(await alone.claim(10)) == 1
    assert await query(fresh, "SELECT * FROM key_change") == []


async def test_a_place_that_is_freed_wakes_a_waiting_claim_of_another_process(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    await limit(caller, 1)
    await caller.submit_many(2, concurrency_key="a")
    await settled(caller)
    job = await caller.claim_one()
    waiting = asyncio.create_task(far_caller.claim(1, wait_seconds=30))
    await until(lambda: bool(far_caller.service._shared.claims._waiters), "the claim waits")
    await caller.complete(job)
    assert len(await within(waiting, 1.5)) == 1


async def test_a_run_of_a_flow_that_waits_holds_no_place_and_needs_one_to_continue(
    alone: JobCaller, fresh: Database
) -> None:
    await limit(alone, 1, task_type="flow", model_profile=PROFILE)
    first = await ManualRun.begin(alone, calls=1, park=True, concurrency_key="a")
    assert await first.home() == "parked"
    second = await ManualRun.begin(alone, concurrency_key="a")
    child = await alone.claim_one(task_types=["echo"])
    await alone.complete(child)
    assert await first.home() == "later", "it could continue, and the second run has the place"
    assert await alone.claim(10) == []
    async with fresh.acquire() as connection, connection.transaction():
        await second.end_on(connection)
    await Admitter(fresh, alone.service.wakeups).once()
    await first.claim_again()


async def test_rules_are_recorded(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 2, {"big": 4})
    await limit(alone, None)
    rows = await query(fresh, "SELECT action, subject, before::text, after::text FROM audit ORDER BY id")
    assert [(action, subject) for action, subject, _, _ in rows] == [("queue.limit", "echo/small")] * 2
    assert '"big":4' in rows[0][3]
    assert '"big":4' in rows[1][2]


_COPY_READY = """
INSERT INTO ready (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                   concurrency_key)
SELECT tenant_id, gen_random_uuid(), lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
       concurrency_key FROM ready
"""


async def _has_rule(database: Database) -> bool:
    return bool(await query(database, "SELECT 1 FROM key_rule"))


async def _running_by_key(caller: JobCaller) -> Mapping[str | None, int]:
    counts: dict[str | None, int] = {}
    for job in await caller.claim(100):
        key = (await caller.get(job.id)).concurrency_key
        counts[key] = counts.get(key, 0) + 1
    return counts
