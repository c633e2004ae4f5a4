"""Claims: which jobs they take, in which order, how long they wait and what wakes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from penstock.jobs.states import Status
from penstock.jobs.work import ClaimRequest
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import tables_holding
from tests.support.duties import promote
from tests.support.jobs import JobCaller, claim_rows
from tests.support.waiting import until, within


async def test_jobs_of_one_queue_are_claimed_in_order_of_submission(caller: JobCaller) -> None:
    made = [(await caller.submit(owner_ref=f"{number}")).id for number in range(3)]
    made += [job.id for job in await caller.submit_many(20)]
    claimed = [job.id for _ in range(5) for job in await caller.claim(5)]
    assert claimed == made


async def test_a_higher_priority_is_claimed_first_even_if_submitted_later(caller: JobCaller) -> None:
    priorities = [0, 5, -100, 100, 5, 0]
    for priority in priorities:
        await caller.submit(priority=priority)
    assert [job.priority for job in await caller.claim(4)] == [100, 5, 5, 0]
    assert [job.priority for job in await caller.claim(4)] == [0, -100]


async def test_queues_of_equal_priority_take_turns(caller: JobCaller) -> None:
    await caller.submit_many(300, task_type="busy")
    await caller.submit_many(20, task_type="quiet")
    claimed = Counter([(await caller.claim_one()).task_type for _ in range(60)])
    assert claimed["quiet"] >= 5, "a queue that fills up first must not starve another"
    assert claimed["busy"] >= 5


async def test_a_claim_takes_only_the_queues_it_names(caller: JobCaller) -> None:
    await caller.submit(task_type="a", model_profile="x")
    await caller.submit(task_type="a", model_profile="y")
    await caller.submit(task_type="b", model_profile="x")
    assert await caller.claim(10, task_types=["c"]) == []
    assert [job.model_profile for job in await caller.claim(10, task_types=["a"], model_profiles=["y"])] == ["y"]
    assert [job.task_type for job in await caller.claim(10, task_types=["b", "c"])] == ["b"]
    assert [job.task_type for job in await caller.claim(10, model_profiles=["x"])] == ["a"]
    assert await caller.claim(10) == []


async def test_a_claimed_job_carries_all_that_its_worker_needs(caller: JobCaller, database: Database) -> None:
    made = await caller.submit(input=b"[1]", tags=["t"], timeout_seconds=3, priority=2, max_attempts=4, owner_ref="r")
    job = await caller.claim_one(worker_id="w1", lease_seconds=60)
    assert (job.id, job.owner_service, job.owner_ref) == (made.id, "tests", "r")
    assert (job.task_type, job.model_profile) == ("echo", "small")
    assert (job.attempt, job.max_attempts, job.timeout_seconds, job.priority) == (1, 4, 3.0, 2)
    assert (bytes(job.input), job.tags, job.created_at) == (b"[1]", ["t"], made.created_at)
    read = await caller.get(job.id)
    assert (read.status, read.worker_id, read.attempt) == (Status.RUNNING, "w1", 1)
    assert read.lease_expires_at == job.lease_expires_at
    assert read.started_at is not None
    assert job.lease_expires_at - read.started_at == timedelta(seconds=60)
    assert await tables_holding(database, job.id) == ["lease"]


async def test_a_lease_has_the_configured_length_unless_the_claim_states_one(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    read = await caller.get(job.id)
    assert read.started_at is not None
    assert job.lease_expires_at - read.started_at == caller.service.limits.lease


async def test_a_claim_never_takes_more_than_its_limit(caller: JobCaller) -> None:
    for priority in range(5):
        await caller.submit_many(4, priority=priority)
    assert len(await caller.claim(7)) == 7
    assert len(await caller.claim(1000)) == 13


async def test_a_claim_neither_waits_for_another_nor_takes_less_because_of_it(
    caller: JobCaller, database: Database
) -> None:
    made = [job.id for job in await caller.submit_many(10)]
    async with database.acquire() as connection, connection.transaction():
        first = await claim_rows(connection, caller.tenant, limit=4)
        second = await within(caller.claim(4), 2)
        assert [row["job_id"] for row in first] == made[:4]
        assert [job.id for job in second] == made[4:8]


async def test_jobs_locked_by_an_abandoned_claim_go_to_the_next_one(caller: JobCaller, database: Database) -> None:
    made = [job.id for job in await caller.submit_many(3)]
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert len(await claim_rows(connection, caller.tenant, limit=3)) == 3
        assert await caller.claim(3) == []
        await transaction.rollback()
    assert [job.id for job in await within(caller.claim(3, wait_seconds=10))] == made


async def test_epochs_grow_with_every_claim(caller: JobCaller) -> None:
    await caller.submit_many(6)
    epochs = [job.epoch for _ in range(3) for job in await caller.claim(2)]
    assert len(set(epochs)) == 6
    assert max(epochs[:2]) < min(epochs[2:4]) < min(epochs[4:])


async def test_a_waiting_claim_gets_a_job_that_its_own_process_submits(caller: JobCaller) -> None:
    waiting = asyncio.create_task(caller.claim(1, wait_seconds=30))
    await _in_line(caller, 1)
    made = await caller.submit()
    (job,) = await within(waiting, 1.5)
    assert job.id == made.id


async def test_a_waiting_claim_is_woken_by_another_process(caller: JobCaller, far_caller: JobCaller) -> None:
    waiting = asyncio.create_task(caller.claim(1, wait_seconds=30))
    await _in_line(caller, 1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    made = await far_caller.submit()
    (job,) = await within(waiting)
    assert job.id == made.id
    assert loop.time() - begun < 1.0, "sooner than the waiting claim would have polled"


async def test_as_many_waiting_claims_are_served_as_jobs_arrive(caller: JobCaller, far_caller: JobCaller) -> None:
    waiting = [asyncio.create_task(caller.claim(1, wait_seconds=30)) for _ in range(6)]
    await _in_line(caller, 6)
    await far_caller.submit_many(4)
    await until(lambda: sum(task.done() for task in waiting) == 4, "four of the six claims have returned")
    await far_caller.submit_many(2)
    served = [job.id for jobs in await within(asyncio.gather(*waiting)) for job in jobs]
    assert len(set(served)) == 6


async def test_a_waiting_claim_is_not_served_from_other_queues(caller: JobCaller) -> None:
    waiting = asyncio.create_task(caller.claim(1, task_types=["mine"], wait_seconds=30))
    await _in_line(caller, 1)
    await caller.submit(task_type="other")
    mine = await caller.submit(task_type="mine")
    (job,) = await within(waiting)
    assert job.id == mine.id


async def test_a_claim_returns_nothing_when_its_time_is_up(caller: JobCaller) -> None:
    assert await within(caller.claim(1, wait_seconds=0.05), 1.5) == []


async def test_a_claim_that_is_cancelled_while_it_waits_takes_nothing(caller: JobCaller, database: Database) -> None:
    waiting = asyncio.create_task(caller.claim(1, wait_seconds=30))
    await _in_line(caller, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    job = await caller.submit()
    assert await tables_holding(database, job.id) == ["ready"]


async def test_a_claim_cancelled_in_the_middle_returns_its_jobs_without_using_attempts(
    caller: JobCaller, database: Database
) -> None:
    job = await caller.submit(max_attempts=1)
    async with database.acquire() as connection, connection.transaction():
        # The claim cannot get past the counters while this is held, so it is cancelled in the middle.
        await connection.execute("LOCK TABLE stat_delta IN ACCESS EXCLUSIVE MODE")
        claiming = asyncio.create_task(caller.claim())
        await until(lambda: _blocked(database), "the claim waits for the table")
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming

    async def is_back() -> bool:
        return (await caller.get(job.id)).attempt == 1 and await tables_holding(database, job.id) == ["ready"]

    await until(is_back, "the job was handed back")
    again = await caller.claim_one()
    assert (again.id, again.attempt) == (job.id, 2)
    await caller.complete(again)


async def test_a_cancelled_claim_ends_after_its_statement(caller: JobCaller, database: Database) -> None:
    """A worker that stops hands its jobs back then, and its last claim must not take them again."""
    job = await caller.submit()
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE stat_delta IN ACCESS EXCLUSIVE MODE")
        claiming = asyncio.create_task(caller.claim())
        await until(lambda: _blocked(database), "the claim waits for the table")
        claiming.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await claiming
    assert not caller.service._shared.claiming, "no statement is in flight"
    (again,) = await within(caller.claim(1, wait_seconds=10))
    assert again.id == job.id, "it was handed back"
    await caller.complete(again)


async def test_a_scheduled_job_is_claimed_once_it_is_due(caller: JobCaller, database: Database, clock: Clock) -> None:
    job = await caller.submit(run_at=datetime.now(UTC) + timedelta(minutes=10))
    await promote(database)
    assert await caller.claim() == []
    await clock.advance(timedelta(minutes=11))
    assert await caller.claim() == [], "only promotion makes it ready"
    await promote(database)
    assert (await caller.claim_one()).id == job.id


async def test_promotion_wakes_waiting_claims_of_other_processes(
    caller: JobCaller, far_caller: JobCaller, database: Database, clock: Clock
) -> None:
    await caller.submit(run_at=datetime.now(UTC) + timedelta(minutes=10))
    waiting = asyncio.create_task(caller.claim(1, wait_seconds=30))
    await _in_line(caller, 1)
    await clock.advance(timedelta(minutes=11))
    await promote(database, far_caller.service.wakeups)
    assert len(await within(waiting, 1.5)) == 1


async def test_due_jobs_become_ready_in_the_order_they_were_due(
    caller: JobCaller, database: Database, clock: Clock
) -> None:
    now = datetime.now(UTC)
    made = [await caller.submit(run_at=now + timedelta(minutes=minutes)) for minutes in (30, 10, 20)]
    await clock.advance(timedelta(hours=1))
    await promote(database)
    assert [job.id for job in await caller.claim(3)] == [made[1].id, made[2].id, made[0].id]


async def test_waiting_for_a_job_ends_when_another_process_finishes_it(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    job = await caller.submit_and_claim()
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(caller.service.of(caller.tenant).wait(job.id, timedelta(seconds=30)))
    await until(lambda: job.id.hex in caller.service._shared.finish_waiters._waiters, "a call waits")
    begun = loop.time()
    await far_caller.complete(job)
    assert (await within(waiting)).status == "completed"
    assert loop.time() - begun < 1.0


async def test_waiting_for_a_job_returns_its_state_when_time_is_up(caller: JobCaller) -> None:
    job = await caller.submit()
    seen = await within(caller.service.of(caller.tenant).wait(job.id, timedelta(milliseconds=20)))
    assert seen.status is Status.PENDING


async def test_a_claim_may_take_the_maximum_of_jobs_at_once(caller: JobCaller) -> None:
    await caller.submit_many(1000)
    async with asyncio.timeout(20):  # minutes, with a plan that reads all of them for each
        assert len(await caller.service.of(caller.tenant).claim(ClaimRequest(worker_id="w", limit=1000))) == 1000


async def _blocked(database: Database) -> bool:
    async with database.acquire() as connection:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )


async def _in_line(caller: JobCaller, count: int) -> None:
    """Wait until that many claims are waiting after their first pass."""

    def waiting() -> bool:
        waiters = caller.service._shared.claims._waiters
        return len(waiters) == count

    await until(waiting, f"{count} claims wait")
