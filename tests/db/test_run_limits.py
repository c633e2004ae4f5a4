"""Limits of running jobs: never exceeded, never leaked, and no burden for tenants without limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from penstock.access.audit import Sender
from penstock.errors import CallerError
from penstock.failures import Category
from penstock.housekeeping.rescuer import Rescuer, rescue_from
from penstock.jobs.announcements import READY
from penstock.jobs.controls import QueueLimit, TenantLimits
from penstock.jobs.limits import JobLimits
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.postgres.pool import Database
from penstock.tenants.principal import OPERATOR
from tests.support.databases import open_database, own_tenant, query
from tests.support.duties import promote
from tests.support.jobs import JobCaller, claim_rows, job_service
from tests.support.waiting import until, within

SENDER = Sender(principal=OPERATOR, address="127.0.0.1")


async def limit(caller: JobCaller, max_running: int | None = None, **queues: int) -> None:
    """Limit a tenant, and its queues with the profile "small"."""
    name = await tenant_name(caller)
    limits = [QueueLimit(task_type=task, model_profile="small", max_running=most) for task, most in queues.items()]
    await caller.service.controls.set_limits(SENDER, name, TenantLimits(max_running=max_running, queues=limits))


async def tenant_name(caller: JobCaller) -> str:
    ((name,),) = await query(caller.service._shared.database, "SELECT name FROM tenant WHERE id = $1", caller.tenant)
    return str(name)


async def running(database: Database, caller: JobCaller) -> int:
    ((count,),) = await query(database, "SELECT count(*) FROM lease WHERE tenant_id = $1", caller.tenant)
    return int(count)


async def claims_wait(*callers: JobCaller) -> None:
    """Wait until a claim waits for jobs in the service of each caller."""
    queues = [caller.service.claims for caller in callers]
    await until(lambda: all(any(one.idle for one in queue._waiters) for queue in queues), "the claims wait")


@pytest.fixture
async def processes(database_url: str, alone: JobCaller) -> AsyncIterator[list[JobCaller]]:
    """Eight callers of one tenant in four services, as in four processes."""
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(4):
            database = await stack.enter_async_context(open_database(database_url))
            service = await stack.enter_async_context(job_service(database))
            callers += [JobCaller(service, alone.tenant)] * 2
        yield callers


async def test_a_claim_takes_no_more_than_the_limit_leaves(alone: JobCaller, fresh: Database) -> None:
    await limit(alone, 3)
    await alone.submit_many(10)
    jobs = await alone.claim(10)
    assert len(jobs) == 3
    assert await alone.claim(10) == []
    await alone.complete(jobs[0])
    assert len(await alone.claim(10)) == 1
    await limit(alone, 5)
    assert len(await alone.claim(10)) == 2
    await limit(alone)
    assert len(await alone.claim(10)) == 4
    assert await running(fresh, alone) == 9


async def test_the_limit_of_a_queue_holds_over_its_priorities_and_leaves_other_queues_alone(alone: JobCaller) -> None:
    await limit(alone, narrow=2)
    for priority in (5, 0, -5):
        await alone.submit_many(2, task_type="narrow", priority=priority)
    await alone.submit_many(6, task_type="wide", priority=-10)
    jobs = await alone.claim(100)
    assert sorted((job.task_type, job.priority) for job in jobs) == [("narrow", 5)] * 2 + [("wide", -10)] * 6
    await alone.complete(jobs[0])
    await alone.complete(jobs[1])
    assert [job.priority for job in await alone.claim(100)] == [0, 0]


async def test_the_limits_of_a_tenant_and_its_queue_hold_together(alone: JobCaller) -> None:
    await limit(alone, 4, one=3, two=3)
    await alone.submit_many(5, task_type="one")
    await alone.submit_many(5, task_type="two")
    jobs = await alone.claim(100)
    assert len(jobs) == 4
    assert max(sum(job.task_type == task for job in jobs) for task in ("one", "two")) <= 3


async def test_a_limited_tenant_does_not_keep_others_from_running(alone: JobCaller, fresh: Database) -> None:
    other = JobCaller(alone.service, await own_tenant(fresh))
    await limit(alone, 1)
    await alone.submit_many(50, priority=100)
    await other.submit_many(10)
    jobs = await alone.service.claim(ClaimRequest(worker_id="w", limit=20))
    assert len(jobs) == 11


async def test_a_claim_counts_the_leases_of_one_that_commits_after_it_began(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    """The second claim takes its snapshot before the first one commits, and then waits for the first one's lock."""
    await limit(alone, 3)
    await alone.submit_many(10)
    async with open_database(database_url) as far, far.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert len(await claim_rows(connection, alone.tenant, limit=2)) == 2
        second = asyncio.create_task(alone.claim(10))
        await until(lambda: _waits_for_advisory_lock(fresh), "the second claim waits for the first")
        await transaction.commit()
        assert len(await within(second)) == 1
    assert await running(fresh, alone) == 3


async def test_claims_of_several_limited_tenants_do_not_wait_for_each_other_in_a_circle(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    tenants = [JobCaller(alone.service, await own_tenant(fresh)) for _ in range(6)]
    for each in tenants:
        await limit(each, 2)
        await each.submit_many(6)
    names = dict(await query(fresh, "SELECT id, name FROM tenant"))
    owners = {names[each.tenant]: each for each in tenants}
    async with open_database(database_url) as far, job_service(far) as far_service:
        left = 36
        while left:
            claims = [
                service.claim(ClaimRequest(worker_id="w", limit=5)) for service in (alone.service, far_service) * 3
            ]
            found = [job for jobs in await within(asyncio.gather(*claims)) for job in jobs]
            for each in tenants:
                assert await running(fresh, each) <= 2
            for job in found:
                await owners[job.tenant].complete(job)
            left -= len(found)


async def test_room_under_a_limit_wakes_a_waiting_claim_of_another_process(
    alone: JobCaller, processes: list[JobCaller]
) -> None:
    await limit(alone, 1)
    await alone.submit_many(4)
    job = await alone.claim_one()
    for end in ("complete", "fail", "limit"):
        waiting = asyncio.create_task(processes[0].claim(1, wait_seconds=30))
        await until(lambda: bool(processes[0].service._shared.claims._waiters), "the claim waits")
        match end:
            case "complete":
                await alone.complete(job)
            case "fail":
                await alone.fail(job, Category.BAD_INPUT)
            case _:
                await limit(alone, 2)
        (job,) = await within(waiting, 1.5)


async def test_a_free_place_goes_to_a_waiting_claim_of_the_same_process_and_wakes_no_other(
    alone: JobCaller, processes: list[JobCaller]
) -> None:
    here, elsewhere = processes[0], processes[2]
    await limit(alone, 1)
    await alone.submit_many(4)
    job = await here.claim_one()
    announced: list[str] = []
    here.service.wakeups.forward(READY, lambda keys: announced.extend(keys or ()))
    waiting = [asyncio.create_task(one.claim(1, wait_seconds=30)) for one in (here, elsewhere)]
    await claims_wait(here, elsewhere)
    await here.complete(job)
    (job,) = await within(waiting[0], 1.5)
    assert announced == []
    await here.complete(job)  # now nothing waits here
    await within(waiting[1], 1.5)


async def test_a_free_place_that_no_claim_of_the_process_can_use_wakes_another_one(
    alone: JobCaller, processes: list[JobCaller]
) -> None:
    here, elsewhere = processes[0], processes[2]
    await limit(alone, 1)
    await alone.submit(task_type="one")
    await alone.submit(task_type="two")
    job = await here.claim_one(task_types=["one"])
    waiting = asyncio.create_task(here.claim(1, wait_seconds=30, task_types=["one"]))
    other = asyncio.create_task(elsewhere.claim(1, wait_seconds=30, task_types=["two"]))
    await claims_wait(here, elsewhere)
    await here.complete(job)
    assert (await within(other, 1.5))[0].task_type == "two"
    waiting.cancel()


async def test_a_busy_process_does_not_keep_the_places_from_queues_of_another(
    alone: JobCaller, processes: list[JobCaller]
) -> None:
    """It passes each place on to its own next claim, but not for longer than a moment."""
    here, elsewhere = processes[0], processes[2]
    await limit(alone, 1)
    await alone.submit_many(1000, task_type="one")
    await alone.submit(task_type="two")

    async def work(job: ClaimedJob) -> None:
        while True:
            following = asyncio.create_task(here.claim_one(wait_seconds=30, task_types=["one"]))
            await here.complete(job)
            job = await following

    job = await here.claim_one(task_types=["one"])
    other = asyncio.create_task(elsewhere.claim(1, wait_seconds=30, task_types=["two"]))
    await claims_wait(elsewhere)
    working = asyncio.create_task(work(job))
    try:
        jobs = await within(other, 1.5)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert [job.task_type for job in jobs] == ["two"]


@pytest.mark.parametrize("cap", [1, 2, 7])
async def test_no_snapshot_shows_more_leases_than_the_limit(
    cap: int, alone: JobCaller, processes: list[JobCaller], fresh: Database
) -> None:
    """Eight workers race, while jobs are cancelled, retried, failed and rescued; at the end nothing has leaked."""
    await limit(alone, cap)
    made = [job.id for job in await alone.submit_many(150, max_attempts=50)]
    rescuer = Rescuer(fresh, JobLimits(), alone.service.wakeups)
    chance = random.Random(cap)
    over = False

    async def work(caller: JobCaller, name: str) -> None:
        while not over:
            for job in await caller.claim(3, worker_id=name, wait_seconds=0.05):
                await _end(caller, job, name, chance, fresh)

    async def disturb() -> None:
        while not over:
            for change in (alone.cancel, alone.retry):
                with suppress(CallerError):
                    await change(chance.choice(made))
            await rescuer.once()

    tasks = [asyncio.create_task(work(caller, f"w{number}")) for number, caller in enumerate(processes)]
    tasks.append(asyncio.create_task(disturb()))
    try:
        highest = 0
        async with asyncio.timeout(30):
            for _ in range(120):
                highest = max(highest, await running(fresh, alone))
                await asyncio.sleep(0)
    finally:
        over = True
        await asyncio.gather(*tasks)
    assert highest <= cap
    await rescue_from(fresh, JobLimits(), [f"w{number}" for number in range(8)])
    await alone.submit_many(cap)
    await promote(fresh)
    assert len(await alone.claim(1000)) == cap, "all room is free again"


async def test_limits_are_listed_and_recorded(alone: JobCaller, fresh: Database) -> None:
    await alone.submit(task_type="narrow")
    await limit(alone, 9, narrow=2)
    listed = await alone.service.controls.queues(alone.tenant)
    assert listed.max_running == 9
    assert [(one.task_type, one.pending, one.max_running, one.paused) for one in listed.queues] == [
        ("narrow", 1, 2, False)
    ]
    actions = await query(fresh, "SELECT action, after::text FROM audit")
    assert actions[-1][0] == "tenant.limits"
    assert '"narrow/small":2' in actions[-1][1].replace(" ", "")


async def _end(caller: JobCaller, job: ClaimedJob, name: str, chance: random.Random, database: Database) -> None:
    """End an attempt in one of the ways in which attempts end."""
    try:
        match chance.randrange(5):
            case 0:
                await caller.complete(job)
            case 1:
                await caller.fail(job, Category.INTERNAL, retry_after=0.0)
            case 2:
                await caller.fail(job, Category.BAD_INPUT)
            case 3:
                await caller.retry(job.id)
            case _:
                await rescue_from(database, JobLimits(), [name])
    except CallerError:
        pass  # cancelled, retried or rescued by another


async def _waits_for_advisory_lock(database: Database) -> bool:
    rows = await query(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(rows[0][0])
