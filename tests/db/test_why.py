"""The reasons why a job does not run: what it waits for, its position, and an estimate with its basis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from penstock.access.audit import Sender
from penstock.errors import NotFound
from penstock.failures import Category
from penstock.jobs.controls import QueueLimit, QueueSelection, TenantLimits
from penstock.jobs.job import Job
from penstock.jobs.why import Blocker, Reason, Why, estimated
from penstock.postgres.pool import Database
from penstock.tenants.principal import OPERATOR, Principal
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant, query
from tests.support.duties import promote
from tests.support.jobs import JobCaller
from tests.support.keys import limit, settled


async def why(caller: JobCaller, job_id: UUID) -> Why:
    async def quota(job: Job) -> list[Reason]:
        return [Reason(code=Blocker.QUOTA, detail="the quota is used up")] if "quota" in job.tags else []

    return await caller.service.of(caller.tenant).explainer.why(job_id, lambda _: (), lambda _: None, quota)


def codes(found: Why) -> list[Blocker]:
    return [reason.code for reason in found.reasons]


async def served(caller: JobCaller) -> None:
    """Record that a worker serves the queue of the tests."""
    await caller.claim(1, task_types=["echo"], model_profiles=["small"])
    await caller.service.of(caller.tenant)._claiming.stop()


def sender(caller: JobCaller) -> Sender:
    principal = Principal(tenant=caller.tenant, tenant_name="t", scopes=OPERATOR.scopes)
    return Sender(principal=principal, address="127.0.0.1")


async def test_a_job_waits_for_its_turn_behind_jobs_before_it(alone: JobCaller) -> None:
    await served(alone)
    jobs = await alone.submit_many(3, priority=1)
    last = await alone.submit(priority=0)
    await alone.submit(priority=-1)
    await alone.submit(task_type="other", priority=5)
    found = await why(alone, last.id)
    assert (codes(found), found.position, found.estimate) == ([Blocker.TURN], 4, None)
    assert found.reasons[0].detail == "3 jobs of its queue come before it"
    assert (await why(alone, jobs[0].id)).reasons[0].detail.startswith("it is the next job of its queue")


async def test_a_queue_without_a_worker_is_named(alone: JobCaller) -> None:
    job = await alone.submit(task_type="nobody's")
    found = await why(alone, job.id)
    assert codes(found) == [Blocker.NO_WORKER]
    assert "nobody's/small" in found.reasons[0].detail


async def test_a_scheduled_job_and_one_that_backs_off_have_no_position(alone: JobCaller) -> None:
    await served(alone)
    at = datetime.now(UTC) + timedelta(hours=2)
    found = await why(alone, (await alone.submit(run_at=at)).id)
    assert (codes(found), found.reasons[0].until, found.position) == ([Blocker.SCHEDULED], at, None)
    assert "(in 2h)" in found.reasons[0].detail or "(in 1h" in found.reasons[0].detail
    failed = await alone.submit_and_claim()
    await alone.fail(failed, Category.INTERNAL, retry_after=600)
    found = await why(alone, failed.id)
    assert (codes(found), found.position) == ([Blocker.BACKING_OFF], None)
    assert "attempt 1 failed" in found.reasons[0].detail


async def test_pauses_and_reached_limits_are_named_with_the_jobs_that_a_limit_counts(
    alone: JobCaller, fresh: Database
) -> None:
    await served(alone)
    ((name,),) = await query(fresh, "SELECT name FROM tenant WHERE id = $1", alone.tenant)
    limits = TenantLimits(max_running=2, queues=[QueueLimit(task_type="echo", model_profile="small", max_running=1)])
    await alone.service.controls.set_limits(sender(alone), name, limits)
    running = await alone.submit_and_claim()
    other = await alone.submit_and_claim(task_type="other")
    job = await alone.submit()
    found = await why(alone, job.id)
    assert codes(found) == [Blocker.LIMIT_REACHED] * 2
    assert [set(reason.jobs) for reason in found.reasons] == [{running.id}, {running.id, other.id}]
    for selected in (QueueSelection(task_type="echo", model_profile="small"), QueueSelection(all_tenants=True)):
        await alone.service.controls.pause(sender(alone), selected)
    found = await why(alone, job.id)
    assert codes(found) == [Blocker.PAUSED] * 2 + [Blocker.LIMIT_REACHED] * 2
    assert found.reasons[0].detail.startswith("for all tenants, all queues are paused since")


async def test_an_estimate_is_made_of_completed_and_running_jobs(alone: JobCaller, fresh: Database) -> None:
    await served(alone)
    for _ in range(4):
        await alone.complete(await alone.submit_and_claim())
    await execute(fresh, "UPDATE done SET started_at = finished_at - interval '10 seconds'")
    await alone.submit_many(2)
    assert len(await alone.claim(2)) == 2
    jobs = await alone.submit_many(3)
    found = await why(alone, jobs[-1].id)
    assert found.estimate is not None
    assert found.estimate.seconds == pytest.approx(15.0)
    assert found.estimate.basis == "the last 4 completed jobs of the queue took 10 s each, and 2 run now"


@pytest.mark.parametrize(("running", "sample"), [(0, [1.0]), (3, [])])
def test_without_running_or_completed_jobs_there_is_no_estimate(running: int, sample: list[float]) -> None:
    assert estimated(5, running=running, sample=sample) is None


async def test_jobs_that_run_or_have_ended_wait_for_nothing(alone: JobCaller) -> None:
    await alone.submit()
    job = await alone.claim_one(worker_id="w7")
    found = await why(alone, job.id)
    assert codes(found) == [Blocker.RUNNING]
    assert "w7" in found.reasons[0].detail
    await alone.complete(job)
    assert codes(await why(alone, job.id)) == [Blocker.FINISHED]


async def test_another_tenants_job_is_not_found(alone: JobCaller, fresh: Database) -> None:
    job = await alone.submit()
    with pytest.raises(NotFound):
        await why(JobCaller(alone.service, await own_tenant(fresh)), job.id)


async def test_a_job_without_a_place_of_its_key_names_the_jobs_that_hold_them(alone: JobCaller) -> None:
    await served(alone)
    await limit(alone, 2)
    jobs = await alone.submit_many(5, concurrency_key="a")
    await settled(alone)
    running = await alone.claim_one()
    found = await why(alone, jobs[4].id)
    assert (codes(found), found.position) == ([Blocker.CONCURRENCY_KEY], None)
    assert found.reasons[0].detail == (
        "jobs that are ready or run hold all places of the concurrency key a, 2 in this queue; 2 more wait before it"
    )
    assert set(found.reasons[0].jobs) == {running.id, jobs[1].id}
    urgent = await alone.submit(concurrency_key="a", priority=9)
    await settled(alone)
    assert codes(await why(alone, urgent.id)) == [Blocker.TURN]
    assert "3 more" in (await why(alone, jobs[4].id)).reasons[0].detail


async def test_a_job_that_was_due_and_has_no_place_does_not_wait_for_its_time(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await served(alone)
    await limit(alone, 1)
    await alone.submit(concurrency_key="a")
    later = await alone.submit(concurrency_key="a", run_at=datetime.now(UTC) + timedelta(minutes=1))
    assert codes(await why(alone, later.id)) == [Blocker.SCHEDULED]
    await fresh_clock.advance(timedelta(minutes=2))
    await promote(fresh)
    assert codes(await why(alone, later.id)) == [Blocker.CONCURRENCY_KEY]


async def test_a_job_of_a_suspended_tenant_says_so(alone: JobCaller, fresh: Database) -> None:
    await served(alone)
    job = await alone.submit()
    await execute(fresh, "UPDATE tenant SET suspended_at = now() WHERE id = $1", alone.tenant)
    assert codes(await why(alone, job.id)) == [Blocker.SUSPENDED]


async def test_what_other_rooms_know_is_among_the_reasons(alone: JobCaller) -> None:
    await served(alone)
    job = await alone.submit(tags=["quota"])
    assert codes(await why(alone, job.id)) == [Blocker.QUOTA]
