"""Runs with concurrency keys, and jobs of runs with them: a place that becomes free is taken at once.

No housekeeper runs in these tests, so an admission that is not requested never happens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.flows.duties import FlowKeeper
from penstock.flows.service import FlowService
from penstock.jobs.job import Job, JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.support.flow_runners import Running, running
from tests.support.jobs import JobCaller
from tests.support.keys import limit
from tests.support.waiting import until

FLOWS = """
import time

from penstock.flows import flow, run

def blocks() -> None:
    time.sleep(0)

@flow(name="gathering", version="1")
async def gathering(count: int, key: str) -> list:
    return await run.gather(*[run.call("echo", number, concurrency_key=key) for number in range(count)])

@flow(name="mapping", version="1")
async def mapping(count: int, key: str) -> list:
    return await run.map("echo", range(count), limit=count, concurrency_key=key)

@flow(name="waits", version="1")
async def waits() -> str:
    return await run.wait_signal("go")

@flow(name="sleeps", version="1")
async def sleeps() -> str:
    await run.sleep(0.01)
    return "slept"

@flow(name="quick", version="1")
async def quick(fail: bool = False) -> str:
    if fail:
        raise ValueError("as requested")
    return "done"

@flow(name="parent", version="1")
async def parent(key: str) -> list:
    return await run.gather(*[run.call(quick, {}, concurrency_key=key) for _ in range(3)])

@flow(name="broken", version="1")
async def broken() -> str:
    blocks()

@flow(name="retried", version="1")
async def retried(key: str) -> str:
    await run.call("echo", {"fail": (await run.wait_signal("go")) == "fail"}, concurrency_key=key)
"""


@pytest.fixture
async def runner(service: JobService, database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "flows.py").write_text(FLOWS)
    async with running(service, database, tmp_path, linger=0.1) as running_now:
        yield running_now


@pytest.fixture
def flows(runner: Running, service: JobService, database: Database) -> FlowService:
    return FlowService(database, service)


async def begin(caller: JobCaller, flow: str, value: Any = None, *, key: str | None = None) -> UUID:
    given = msgspec.Raw(msgspec.json.encode(value or {}))
    submission = JobSubmission(
        owner_service="tests", task_type="flow", model_profile=f"{flow}@1", input=given, concurrency_key=key
    )
    return (await caller.service.of(caller.tenant).submit(submission)).job.id


async def reaches(caller: JobCaller, run_id: UUID, status: Status) -> Job:
    async def has() -> bool:
        return (await caller.get(run_id)).status is status

    await until(has, f"the run is {status}")
    return await caller.get(run_id)


async def test_jobs_of_a_run_take_places_as_they_become_free(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 1, task_type="predict", model_profile="echo")
    run_id = await begin(caller, "gathering", {"count": 4, "key": "one"})
    assert (await reaches(caller, run_id, Status.COMPLETED)).result == msgspec.Raw(b"[0,1,2,3]")


async def test_items_of_a_map_take_places_as_they_become_free(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 2, task_type="predict", model_profile="echo")
    run_id = await begin(caller, "mapping", {"count": 7, "key": "one"})
    await reaches(caller, run_id, Status.COMPLETED)


async def test_child_runs_take_places_as_they_become_free(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 1, task_type="flow", model_profile="quick@1")
    await reaches(caller, await begin(caller, "parent", {"key": "one"}), Status.COMPLETED)


async def test_a_run_that_ends_leaves_its_place(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 1, task_type="flow", model_profile="quick@1")
    begun = [await begin(caller, "quick", {"fail": fail}, key="one") for fail in (False, True, False)]
    for run_id, status in zip(begun, (Status.COMPLETED, Status.FAILED, Status.COMPLETED), strict=True):
        await reaches(caller, run_id, status)


async def test_a_run_that_waits_leaves_its_place_and_takes_one_again(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 1, task_type="flow", model_profile="waits@1")
    begun = [await begin(caller, "waits", key="one") for _ in range(3)]
    for run_id in begun:
        await reaches(caller, run_id, Status.WAITING)
    for run_id in begun:
        await flows.signal(caller.tenant, run_id, "go", msgspec.Raw(b'"on"'), key=None)
    for run_id in begun:
        await reaches(caller, run_id, Status.COMPLETED)


async def test_a_run_that_a_timer_wakes_takes_a_place(
    flows: FlowService, caller: JobCaller, service: JobService, database: Database
) -> None:
    await limit(caller, 1, task_type="flow", model_profile="sleeps@1")
    begun = [await begin(caller, "sleeps", key="one") for _ in range(3)]
    keeper = FlowKeeper(database, service.wakeups)
    for run_id in begun:

        async def over(run_id: UUID = run_id) -> bool:
            await keeper.once()
            return (await caller.get(run_id)).status.finished

        await until(over, "the run ends")


async def test_a_run_that_is_held_or_ended_by_force_leaves_its_place(flows: FlowService, caller: JobCaller) -> None:
    for flow in ("broken", "waits"):
        await limit(caller, 1, task_type="flow", model_profile=f"{flow}@1")
    held = [await begin(caller, "broken", key="one") for _ in range(2)]

    async def are_held() -> bool:
        return all([(await caller.get(run_id)).hold is not None for run_id in held])

    await until(are_held, "both runs are held")
    for run_id in held:
        await flows.release(caller.tenant, run_id)
    await until(are_held, "both runs are held again")

    waiting = [await begin(caller, "waits", key="one") for _ in range(2)]
    for run_id in [*held, *waiting]:
        await flows.cancel(caller.tenant, run_id, force=True)
    await reaches(caller, await begin(caller, "waits", key="one"), Status.WAITING)


async def test_a_job_that_a_retry_makes_takes_a_place(flows: FlowService, caller: JobCaller) -> None:
    await limit(caller, 1, task_type="predict", model_profile="echo")
    run_id = await begin(caller, "retried", {"key": "one"})
    await flows.signal(caller.tenant, run_id, "go", msgspec.Raw(b'"fail"'), key=None)
    for _ in range(2):
        await reaches(caller, run_id, Status.FAILED)
        await flows.retry(caller.tenant, run_id)
    await reaches(caller, run_id, Status.FAILED)
