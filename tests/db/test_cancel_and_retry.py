"""Cancel and retry, of one job and of all jobs that match a filter."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from penstock.errors import NotFound, StaleEpoch, WrongState
from penstock.failures import Category
from penstock.jobs.filters import JobFilter
from penstock.jobs.states import Status
from penstock.jobs.work import HeartbeatResult
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import query, tables_holding
from tests.support.duties import rescue
from tests.support.jobs import JobCaller
from tests.support.waiting import within


async def test_a_ready_job_is_cancelled_at_once(caller: JobCaller, database: Database) -> None:
    job = await caller.submit()
    cancelled = await caller.cancel(job.id)
    assert (cancelled.status, cancelled.attempt, cancelled.worker_id) == (Status.CANCELLED, 0, None)
    assert cancelled.finished_at is not None
    assert await tables_holding(database, job.id) == ["done"]
    assert await caller.claim() == []
    assert await caller.history(job.id) == ["job.created", "job.cancelled"]


async def test_a_scheduled_job_is_cancelled_at_once(caller: JobCaller, database: Database) -> None:
    job = await caller.submit(run_at=datetime.now(UTC) + timedelta(days=1))
    assert (await caller.cancel(job.id)).status is Status.CANCELLED
    assert await tables_holding(database, job.id) == ["done"]


async def test_a_heartbeat_reports_that_its_job_was_cancelled(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    requested = await caller.cancel(job.id)
    assert requested.status is Status.RUNNING
    assert requested.cancel_requested_at is not None
    result = await caller.beat(job)
    assert isinstance(result, HeartbeatResult)
    assert result.cancel_requested
    assert (await caller.fail(job, Category.CANCELLED)).status is Status.CANCELLED
    assert await caller.history(job.id) == ["job.created", "job.started", "job.cancel_requested", "job.cancelled"]


async def test_a_cancelled_worker_that_reports_another_failure_still_ends_the_job_as_cancelled(
    caller: JobCaller,
) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    assert (await caller.fail(job, Category.SHUTDOWN)).status is Status.CANCELLED


async def test_a_result_reported_after_a_cancellation_request_is_kept(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    assert (await caller.complete(job)).status is Status.COMPLETED
    assert (await caller.get(job.id)).cancel_requested_at is not None


async def test_a_worker_that_does_not_stop_loses_its_lease_after_the_grace(
    caller: JobCaller, database: Database, clock: Clock
) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    await rescue(database)
    assert await caller.status(job.id) is Status.RUNNING
    await clock.advance(caller.service.limits.cancel_grace + timedelta(seconds=1))
    assert isinstance(await caller.beat(job), HeartbeatResult), "heartbeats do not lengthen the grace"
    await rescue(database)
    assert await caller.status(job.id) is Status.CANCELLED
    assert isinstance(await caller.beat(job), StaleEpoch)
    with pytest.raises(StaleEpoch):
        await caller.complete(job)


async def test_cancelling_again_while_running_does_not_restart_the_grace(caller: JobCaller, clock: Clock) -> None:
    job = await caller.submit_and_claim()
    first = await caller.cancel(job.id)
    await clock.advance(timedelta(seconds=20))
    assert (await caller.cancel(job.id)).cancel_requested_at == first.cancel_requested_at


async def test_cancelling_a_cancelled_job_returns_it(caller: JobCaller) -> None:
    job = await caller.submit()
    first = await caller.cancel(job.id)
    assert await caller.cancel(job.id) == first


@pytest.mark.parametrize("category", [None, Category.BAD_INPUT])
async def test_a_job_that_ended_otherwise_cannot_be_cancelled(caller: JobCaller, category: Category | None) -> None:
    job = await caller.submit_and_claim()
    await (caller.complete(job) if category is None else caller.fail(job, category))
    with pytest.raises(WrongState):
        await caller.cancel(job.id)


async def test_unknown_jobs_can_be_neither_cancelled_nor_retried(caller: JobCaller) -> None:
    with pytest.raises(NotFound):
        await caller.cancel(uuid7())
    with pytest.raises(NotFound):
        await caller.retry(uuid7())


async def test_other_processes_are_notified_of_a_cancellation_at_once(caller: JobCaller, far_caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    caller.service.cancellations.clear()
    await far_caller.cancel(job.id)
    await within(caller.service.cancellations.wait())


async def test_a_waiter_is_woken_when_its_job_is_cancelled(caller: JobCaller, far_caller: JobCaller) -> None:
    job = await caller.submit()
    waiting = asyncio.create_task(caller.service.of(caller.tenant).wait(job.id, timedelta(seconds=30)))
    await far_caller.cancel(job.id)
    assert (await within(waiting)).status is Status.CANCELLED


async def test_a_failed_job_is_retried_with_a_fresh_allowance_and_a_growing_attempt(caller: JobCaller) -> None:
    job = await caller.submit_and_claim(max_attempts=1, priority=3)
    assert (await caller.fail(job)).status is Status.FAILED
    again = await caller.retry(job.id)
    assert (again.status, again.error, again.finished_at, again.result) == (Status.PENDING, None, None, None)
    assert [attempt.epoch for attempt in again.attempts] == [job.epoch]
    second = await caller.claim_one()
    assert (second.attempt, second.priority) == (2, 3)
    assert second.epoch > job.epoch
    await caller.complete(second)
    assert await caller.history(job.id) == [
        "job.created",
        "job.started",
        "job.failed",
        "job.retried",
        "job.started",
        "job.completed",
    ]


async def test_retrying_a_running_job_takes_its_lease_away(caller: JobCaller, database: Database) -> None:
    job = await caller.submit_and_claim()
    again = await caller.retry(job.id)
    assert again.status is Status.PENDING
    assert await tables_holding(database, job.id) == ["ready"]
    assert isinstance(await caller.beat(job), StaleEpoch)
    with pytest.raises(StaleEpoch):
        await caller.complete(job)
    with pytest.raises(StaleEpoch):
        await caller.fail(job)
    second = await caller.claim_one()
    with pytest.raises(StaleEpoch):
        await caller.complete(job)
    await caller.complete(second)
    (lost,) = (await caller.get(job.id)).attempts
    assert (lost.epoch, lost.error.category) == (job.epoch, Category.WORKER_LOST)


async def test_a_retry_forgets_an_earlier_cancellation(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    await caller.retry(job.id)
    again = await caller.claim_one()
    result = await caller.beat(again)
    assert isinstance(result, HeartbeatResult)
    assert not result.cancel_requested


async def test_only_failed_and_running_jobs_can_be_retried(caller: JobCaller) -> None:
    pending = await caller.submit()
    with pytest.raises(WrongState):
        await caller.retry(pending.id)
    cancelled = await caller.cancel(pending.id)
    with pytest.raises(WrongState):
        await caller.retry(cancelled.id)
    completed = await caller.submit_and_claim()
    await caller.complete(completed)
    with pytest.raises(WrongState):
        await caller.retry(completed.id)


async def test_cancel_by_filter_works_in_chunks_and_only_on_matching_jobs(caller: JobCaller) -> None:
    await caller.submit_many(2100, task_type="many", tags=["a", "b"])
    kept = await caller.submit_many(3, task_type="many", tags=["a"])
    running = await caller.claim(5)
    assert {job.task_type for job in running} == {"many"}
    where = JobFilter(task_type="many", tags=["b"])
    assert await caller.service.of(caller.tenant).cancel_where(where, dry_run=True) == 2100
    assert (await caller.service.of(caller.tenant).stats()).totals.cancelled == 0, "a dry run changes nothing"
    assert await caller.service.of(caller.tenant).cancel_where(where, dry_run=False) == 2100
    totals = (await caller.service.of(caller.tenant).stats()).totals
    assert (totals.cancelled, totals.running, totals.pending) == (2095, 5, 3)
    result = await caller.beat(running[0])
    assert isinstance(result, HeartbeatResult)
    assert result.cancel_requested
    for job in kept:
        assert await caller.status(job.id) is Status.PENDING


async def test_retry_by_filter_works_in_chunks(caller: JobCaller, database: Database) -> None:
    await caller.submit_many(1500, owner_service="one", max_attempts=1)
    await caller.submit_many(10, owner_service="two", max_attempts=1)
    jobs = await caller.claim(1000) + await caller.claim(1000)
    await asyncio.gather(*(caller.fail(job, Category.PROVIDER_ERROR) for job in jobs))
    where = JobFilter(owner_service="one", error_category=Category.PROVIDER_ERROR)
    assert await caller.service.of(caller.tenant).retry_where(where, dry_run=True) == 1500
    assert await caller.service.of(caller.tenant).retry_where(where, dry_run=False) == 1500
    totals = (await caller.service.of(caller.tenant).stats()).totals
    assert (totals.pending, totals.failed) == (1500, 10)
    rows = await query(database, "SELECT DISTINCT attempt, failures FROM ready WHERE tenant_id = $1", caller.tenant)
    assert rows == [(1, 0)]


async def test_calls_by_filter_count_and_change_only_jobs_in_states_that_allow_it(caller: JobCaller) -> None:
    completed = await caller.submit_and_claim()
    await caller.complete(completed)
    failed = await caller.submit_and_claim()
    await caller.fail(failed, Category.BAD_INPUT)
    running = await caller.submit_and_claim()
    pending = await caller.submit()
    everything = JobFilter(owner_service="tests")
    service, tenant = caller.service, caller.tenant
    assert await service.of(tenant).cancel_where(everything, dry_run=True) == 2
    assert await service.of(tenant).retry_where(everything, dry_run=True) == 2
    only_failed = JobFilter(owner_service="tests", status=[Status.FAILED, Status.COMPLETED])
    assert await service.of(tenant).cancel_where(only_failed, dry_run=False) == 0
    assert await service.of(tenant).retry_where(only_failed, dry_run=False) == 1
    statuses = [await caller.status(job.id) for job in (completed, failed, running, pending)]
    assert statuses == ["completed", "pending", "running", "pending"]
