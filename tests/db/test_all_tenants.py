"""Claims that serve all tenants, and the reports about the jobs that they return."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from penstock.jobs.states import Status
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.postgres.pool import Database
from penstock.work.context import JobContext
from penstock.work.executors import Executors
from penstock.workers.worker import Worker
from tests.support.databases import execute, open_database, own_tenant, query
from tests.support.jobs import JobCaller, job_service
from tests.support.waiting import until, within


@pytest.fixture
async def other(alone: JobCaller, fresh: Database) -> JobCaller:
    """A second tenant of the same service and database."""
    return JobCaller(alone.service, await own_tenant(fresh))


async def claim(caller: JobCaller, limit: int = 10, wait_seconds: float = 0) -> list[ClaimedJob]:
    return await caller.service.claim(ClaimRequest(worker_id="shared", limit=limit, wait_seconds=wait_seconds))


@pytest.fixture
async def running_worker(alone: JobCaller) -> AsyncIterator[Worker]:
    """A worker that serves all tenants with an executor that reports progress and a chunk."""

    async def echo(job: ClaimedJob, context: JobContext) -> object:
        context.progress({"tenant": job.tenant, "id": context.tenant})
        context.chunk(job.tenant)
        return job.tenant

    executors = Executors()
    executors.add(echo, task_types=["echo"], model_profiles=["small"])
    worker = Worker(alone.service, worker_id="w", executors=executors, limit=8, lease=timedelta(seconds=60))
    task = asyncio.create_task(worker.run())
    yield worker
    await within(worker.stop())
    await within(task)


async def test_a_claim_for_all_tenants_returns_jobs_of_each_and_names_their_tenant(
    alone: JobCaller, other: JobCaller, fresh: Database
) -> None:
    mine, theirs = await alone.submit(), await other.submit(input=b'"theirs"')
    names = dict(await query(fresh, "SELECT id, name FROM tenant"))
    claimed = {job.id: job for job in await claim(alone)}
    assert claimed.keys() == {mine.id, theirs.id}
    assert claimed[mine.id].tenant == names[alone.tenant]
    assert claimed[theirs.id].tenant == names[other.tenant]
    assert bytes(claimed[theirs.id].input) == b'"theirs"'
    assert [await alone.status(mine.id), await other.status(theirs.id)] == [Status.RUNNING] * 2
    totals = [(await each.service.of(each.tenant).stats()).totals for each in (alone, other)]
    assert [(total.pending, total.running) for total in totals] == [(0, 1)] * 2


async def test_each_tenant_has_the_event_of_its_own_job_only(alone: JobCaller, other: JobCaller) -> None:
    jobs = {each.tenant: await each.submit() for each in (alone, other)}
    owners = {jobs[each.tenant].id: each for each in (alone, other)}
    for job in await claim(alone):
        await owners[job.id].complete(job)
    for each in (alone, other):
        assert await each.history(jobs[each.tenant].id) == ["job.created", "job.started", "job.completed"]


async def test_a_waiting_claim_for_all_tenants_is_woken_by_any(alone: JobCaller, other: JobCaller) -> None:
    waiting = asyncio.create_task(claim(alone, wait_seconds=30))
    await until(lambda: len(alone.service._shared.claims._waiters) == 1, "the claim waits")
    made = await other.submit()
    (job,) = await within(waiting, 1.5)
    assert job.id == made.id


async def test_a_waiting_claim_of_one_tenant_leaves_wake_ups_to_those_that_can_use_them(
    alone: JobCaller, other: JobCaller
) -> None:
    mine = asyncio.create_task(alone.claim(1, wait_seconds=30))
    await until(lambda: len(alone.service._shared.claims._waiters) == 1, "the first claim waits")
    theirs = asyncio.create_task(other.claim(1, wait_seconds=30))
    await until(lambda: len(alone.service._shared.claims._waiters) == 2, "the second claim waits")
    made = await other.submit()
    (job,) = await within(theirs, 1.5)
    assert job.id == made.id
    assert not mine.done()
    await alone.submit()
    assert len(await within(mine, 1.5)) == 1


async def test_jobs_of_several_tenants_claimed_for_a_caller_that_left_are_handed_back(
    alone: JobCaller, other: JobCaller
) -> None:
    jobs = {each: await each.submit(max_attempts=1) for each in (alone, other)}
    alone.service.hand_back(await claim(alone))

    async def are_back() -> bool:
        return all([await each.status(job.id) is Status.PENDING for each, job in jobs.items()])

    await until(are_back, "the jobs are pending again")


@pytest.mark.usefixtures("running_worker")
async def test_a_worker_runs_the_jobs_of_all_tenants_and_reports_to_each(alone: JobCaller, other: JobCaller) -> None:
    for each in (alone, other):
        made = await each.submit_many(20)
        done = [await within(each.service.of(each.tenant).wait(job.id, timedelta(seconds=9))) for job in made]
        assert {job.status for job in done} == {Status.COMPLETED}
        names = {bytes(job.result or b"") for job in done}
        assert len(names) == 1
        (name,) = names
        kinds = Counter([event.type async for event in each.events(made[0].id)])
        assert kinds["job.output"] == 1
        assert done[0].progress is not None
        assert msgspec.json.decode(done[0].progress) == {"tenant": msgspec.json.decode(name), "id": each.tenant}


async def test_queues_that_a_worker_of_all_tenants_serves_cause_no_warning(alone: JobCaller, other: JobCaller) -> None:
    await claim(alone, wait_seconds=0)
    await alone.service._claiming.stop()
    queues = alone.service.of(other.tenant).queues
    assert await queues.warnings([("any", "thing")], lambda _: ()) == []


async def test_priority_orders_the_jobs_of_a_tenant_but_not_tenants(alone: JobCaller, other: JobCaller) -> None:
    await alone.submit_many(30, priority=100)
    await other.submit(priority=-100)
    made = await other.submit(priority=0)
    for _ in range(5):
        (job,) = await claim(alone, 1)
        if job.id == made.id:
            return
    pytest.fail("five claims of one job took none of the other tenant")


async def test_a_newcomers_job_is_in_the_next_claim_of_every_process(
    alone: JobCaller, other: JobCaller, database_url: str
) -> None:
    await alone.submit_many(200, priority=100)
    async with open_database(database_url) as far, job_service(far) as far_service:
        services = [alone.service, far_service]
        for service in services:
            for _ in range(20):
                await service.claim(ClaimRequest(worker_id="w", limit=2))
        for service in services:
            made = await other.submit()
            assert made.id in {job.id for job in await service.claim(ClaimRequest(worker_id="w", limit=2))}


async def test_backlogged_tenants_share_claims_by_weight(alone: JobCaller, other: JobCaller, fresh: Database) -> None:
    await execute(fresh, "UPDATE tenant SET weight = 3 WHERE id = $1", other.tenant)
    await asyncio.gather(alone.submit_many(400), other.submit_many(400))
    names = dict(await query(fresh, "SELECT id, name FROM tenant"))
    got = Counter([job.tenant for _ in range(50) for job in await claim(alone, 8)])
    assert got[names[other.tenant]] == pytest.approx(300, rel=0.05)
    await execute(fresh, "UPDATE tenant SET weight = 1 WHERE id = $1", other.tenant)
    got = Counter([job.tenant for _ in range(10) for job in await claim(alone, 8)])
    assert got[names[other.tenant]] == pytest.approx(40, abs=4), "a changed weight holds from the next claims on"


async def test_a_tenants_priorities_and_order_hold_among_many_tenants(alone: JobCaller, fresh: Database) -> None:
    tenants = [JobCaller(alone.service, await own_tenant(fresh)) for _ in range(12)]
    for each in tenants:
        for priority in (0, 50, 0, 50):
            await each.submit(priority=priority)
    order: dict[str, list[ClaimedJob]] = {}
    for _ in range(16):
        for job in await claim(alone, 3):
            order.setdefault(job.tenant, []).append(job)
    assert len(order) == 12
    for jobs in order.values():
        assert [job.priority for job in jobs] == [50, 50, 0, 0]
        assert jobs[0].id < jobs[1].id
        assert jobs[2].id < jobs[3].id


async def test_two_claims_at_once_share_many_tenants_without_waiting_or_doubles(
    alone: JobCaller, fresh: Database, database_url: str
) -> None:
    tenants = [JobCaller(alone.service, await own_tenant(fresh)) for _ in range(20)]
    made = {job.id for each in tenants for job in await each.submit_many(10)}
    async with open_database(database_url) as far, job_service(far) as far_service:
        taken: list[ClaimedJob] = []
        while len(taken) < len(made):
            claims = [
                service.claim(ClaimRequest(worker_id="w", limit=7)) for service in (alone.service, far_service) * 2
            ]
            found = [job for jobs in await asyncio.gather(*claims) for job in jobs]
            assert found
            taken += found
    assert {job.id for job in taken} == made
    assert len(taken) == len(made)


async def test_names_that_a_process_forgets_are_read_again(
    alone: JobCaller, other: JobCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.jobs.names._MAX_NAMES", 0)
    await alone.submit()
    assert len(await claim(alone)) == 1
    await alone.submit()
    await other.submit()
    assert {job.task_type for job in await claim(alone)} == {"echo"}, "one known series and one unknown"


async def test_a_claim_for_some_tenants_takes_only_theirs_and_counts_as_their_worker(
    alone: JobCaller, other: JobCaller, fresh: Database
) -> None:
    ((name,),) = await query(fresh, "SELECT name FROM tenant WHERE id = $1", alone.tenant)
    for caller in (alone, other):
        await caller.submit()
    only = ClaimRequest(worker_id="w", task_types=["echo"], model_profiles=["small"], tenants=[name], limit=10)
    assert [job.tenant for job in await alone.service.claim(only)] == [name]
    await alone.service._claiming.stop()
    for caller, warned in ((alone, 0), (other, 1)):
        warnings = await caller.service.of(caller.tenant).queues.warnings([("echo", "small")], lambda _: ())
        assert len(warnings) == warned
    assert await other.service.of(other.tenant).claim(only) == []
