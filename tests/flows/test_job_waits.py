"""Runs wait for events of jobs, whose stored rows are about many jobs; no event is missed, whenever the wait begins."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from penstock.failures import Category
from penstock.flows.duties import FlowKeeper
from penstock.jobs.job import Job
from penstock.jobs.sql import store
from penstock.jobs.work import JobCompletion
from penstock.postgres.pool import Database
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller
from tests.support.runs import ManualRun


@pytest.fixture
def keeper(database: Database, caller: JobCaller) -> FlowKeeper:
    return FlowKeeper(database, caller.service.wakeups)


async def look(database: Database, keeper: FlowKeeper) -> None:
    """Number the events, and bring them to the waits."""
    await execute(database, "SELECT position_events(1000, interval '0')")
    await keeper.once()


async def received(database: Database, run: ManualRun) -> list[dict[str, Any]]:
    rows = await query(database, "SELECT value::text FROM flow_mail WHERE run_id = $1 ORDER BY id", run.id)
    return [msgspec.json.decode(value) for (value,) in rows]


async def end(caller: JobCaller, *jobs: Job, fail: bool = False) -> None:
    wanted = {job.id for job in jobs}
    for claimed in await caller.claim(100, task_types=["echo"]):
        if claimed.id in wanted:
            await (caller.fail(claimed, Category.BAD_INPUT, message="no good") if fail else caller.complete(claimed))


def waiting(**where: object) -> dict[str, Any]:
    return {"event": "job.completed", "match": msgspec.json.encode(where), "park": True}


async def test_a_run_waits_for_the_end_of_one_job_among_many(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    run = await ManualRun.begin(caller)
    jobs = await caller.submit_many(20, owner_ref="order-1")
    await run.commit(**waiting(job_id=str(jobs[7].id)))
    await look(database, keeper)

    async with database.acquire() as connection:  # one row about them all
        claimed = await caller.claim(20, task_types=["echo"])
        done = [JobCompletion(id=job.id, epoch=job.epoch, result=Raw(b"1")) for job in claimed]
        await store.complete(connection, caller.tenant, done)
    await look(database, keeper)

    (data,) = await received(database, run)
    assert data == {
        "job_id": str(jobs[7].id), "owner_service": jobs[7].owner_service, "owner_ref": "order-1", "user_id": "",
        "task_type": "echo", "model_profile": "small", "attempt": 1,
    }  # fmt: skip
    assert await run.home() == "ready"


@pytest.mark.parametrize("field", ["owner_ref", "user_id", "model_profile", "owner_service"])
async def test_jobs_are_told_apart_by_each_field(
    database: Database, caller: JobCaller, keeper: FlowKeeper, field: str
) -> None:
    run = await ManualRun.begin(caller)
    await run.commit(**waiting(**{field: "mine"}))
    await look(database, keeper)
    others, mine = await caller.submit(**{field: "yours"}), await caller.submit(**{field: "mine"})
    await end(caller, others)
    await look(database, keeper)
    assert await received(database, run) == []
    again = await caller.submit(**{field: "mine"})
    await end(caller, mine, again)
    await look(database, keeper)
    (data,) = await received(database, run)
    assert (data[field], data["job_id"] in {str(mine.id), str(again.id)}) == ("mine", True)


async def test_an_end_before_the_wait_is_found(database: Database, caller: JobCaller, keeper: FlowKeeper) -> None:
    run = await ManualRun.begin(caller)
    job = await caller.submit()
    await end(caller, job)
    await look(database, keeper)
    await run.commit(**waiting(job_id=str(job.id)))
    await keeper.once()
    assert len(await received(database, run)) == 1


async def test_a_failure_comes_with_its_reason(database: Database, caller: JobCaller, keeper: FlowKeeper) -> None:
    run = await ManualRun.begin(caller)
    jobs = await caller.submit_many(3)
    await run.commit(event="job.failed", match=msgspec.json.encode({"category": "bad_input"}), park=True)
    await look(database, keeper)
    await end(caller, *jobs, fail=True)
    await look(database, keeper)
    (data,) = await received(database, run)
    assert (data["category"], data["message"]) == ("bad_input", "no good")


@pytest.mark.parametrize("first", ["the job ends", "the run waits"])
async def test_an_end_that_commits_while_the_wait_is_brought_in_is_not_missed(
    database: Database, caller: JobCaller, keeper: FlowKeeper, first: str
) -> None:
    run = await ManualRun.begin(caller)
    await caller.submit()
    job = await caller.claim_one(task_types=["echo"])
    completion = JobCompletion(id=job.id, epoch=job.epoch, result=Raw(b"1"))
    if first == "the run waits":
        await run.commit(**waiting(job_id=str(job.id)))
        await look(database, keeper)
    async with database.acquire() as connection:
        async with connection.transaction():
            await store.complete(connection, caller.tenant, [completion])
            if first == "the job ends":
                await run.commit(**waiting(job_id=str(job.id)))
            other = await caller.submit(task_type="other")  # its event gets its position first
            await look(database, keeper)
            assert await received(database, run) == []
        await look(database, keeper)
    assert len(await received(database, run)) == 1
    assert other.id != job.id


async def test_progress_is_waited_for_by_job(database: Database, caller: JobCaller, keeper: FlowKeeper) -> None:
    run = await ManualRun.begin(caller)
    await caller.submit_many(2)
    one, two = await caller.claim(2, task_types=["echo"])
    await run.commit(event="job.progress", match=msgspec.json.encode({"job_id": str(two.id)}), park=True)
    await look(database, keeper)
    await caller.beat(one, progress=b'{"half": null}')
    await caller.beat(two, progress=b'{"half": null}')
    await look(database, keeper)
    (data,) = await received(database, run)
    assert (data["job_id"], data["progress"]) == (str(two.id), {"half": None})


@pytest.mark.parametrize("where", [{"job_id": "nonsense"}, {"job_id": 7}, {"owner_ref": "\0"}, {"unknown": 1}])
async def test_a_wait_for_what_no_job_has_waits(
    database: Database, caller: JobCaller, keeper: FlowKeeper, where: dict[str, object]
) -> None:
    run = await ManualRun.begin(caller)
    await run.commit(**waiting(**where))
    await look(database, keeper)
    await end(caller, await caller.submit())
    await look(database, keeper)
    assert (await received(database, run), await run.home()) == ([], "parked")
