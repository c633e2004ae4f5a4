"""Reports of workers: heartbeats, results and failures of every category."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.errors import NotFound, StaleEpoch
from penstock.failures import Category
from penstock.jobs.job import Job
from penstock.jobs.limits import JobLimits
from penstock.jobs.states import RetryPolicy, Status
from penstock.jobs.work import ClaimedJob, Failure, HeartbeatResult, JobCompletion, JobHeartbeat, JobState
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import own_tenant, tables_holding
from tests.support.duties import promote, rescue
from tests.support.jobs import JobCaller, job_service, same_json
from tests.support.waiting import within

UNBURNED = {Category.RATE_LIMITED, Category.SHUTDOWN}
FINAL = {Category.BAD_INPUT: Status.FAILED, Category.EXPIRED: Status.FAILED, Category.CANCELLED: Status.CANCELLED}


async def test_a_heartbeat_extends_the_lease_by_its_length(caller: JobCaller, clock: Clock) -> None:
    await caller.submit()
    job = await caller.claim_one(lease_seconds=100)
    await clock.advance(timedelta(seconds=60))
    result = await caller.beat(job)
    assert isinstance(result, HeartbeatResult)
    extended = result.lease_expires_at - job.lease_expires_at
    assert timedelta(seconds=60) <= extended < timedelta(seconds=70)
    assert not result.cancel_requested
    assert (await caller.get(job.id)).lease_expires_at == result.lease_expires_at


async def test_a_heartbeat_may_change_the_length_of_the_lease_permanently(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    long = await caller.beat(job, lease_seconds=7200)
    again = await caller.beat(job)
    assert isinstance(long, HeartbeatResult)
    assert isinstance(again, HeartbeatResult)
    assert long.lease_expires_at - datetime.now(UTC) > timedelta(minutes=100)
    assert again.lease_expires_at >= long.lease_expires_at


async def test_progress_is_kept_until_the_next_report_and_stays_with_the_result(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.beat(job, progress=b'{"fraction": 0.25}')
    await caller.beat(job)
    assert same_json((await caller.get(job.id)).progress, b'{"fraction": 0.25}')
    await caller.beat(job, progress=b'["any", 1, null]')
    await caller.complete(job)
    assert same_json((await caller.get(job.id)).progress, b'["any", 1, null]')


async def test_progress_reported_just_before_a_heartbeat_without_progress_is_kept(caller: JobCaller) -> None:
    """Both arrive in one batch: the later one has no progress, so the earlier one's is stored."""
    job = await caller.submit_and_claim()
    await asyncio.gather(caller.beat(job, progress=b"0.5", lease_seconds=7200), caller.beat(job), caller.beat(job))
    read = await caller.get(job.id)
    assert same_json(read.progress, b"0.5")
    assert read.lease_expires_at is not None
    assert read.lease_expires_at - datetime.now(UTC) > timedelta(minutes=100)


async def test_heartbeats_of_many_jobs_return_results_in_order_with_errors_as_values(caller: JobCaller) -> None:
    await caller.submit_many(3)
    first, second, third = await caller.claim(3)
    await caller.complete(second)
    unknown = uuid7()
    beats = [
        JobHeartbeat(id=third.id, epoch=third.epoch),
        JobHeartbeat(id=second.id, epoch=second.epoch),
        JobHeartbeat(id=unknown, epoch=1),
        JobHeartbeat(id=first.id, epoch=first.epoch + 1000),
        JobHeartbeat(id=first.id, epoch=first.epoch),
    ]
    results = await caller.service.of(caller.tenant).heartbeat(beats)
    assert [type(result) for result in results] == [HeartbeatResult, StaleEpoch, NotFound, StaleEpoch, HeartbeatResult]
    assert [result.id for result in results if isinstance(result, HeartbeatResult)] == [third.id, first.id]


async def test_a_completed_job_keeps_its_result_as_it_was_written(caller: JobCaller, database: Database) -> None:
    job = await caller.submit_and_claim()
    state = await caller.complete(job, b'{"z": 1.50, "a": "\\u00e9"}')
    assert state == JobState(id=job.id, status=Status.COMPLETED)
    read = await caller.get(job.id)
    assert read.result is not None
    assert bytes(read.result) == b'{"z": 1.50, "a": "\\u00e9"}'
    assert (read.status, read.worker_id, read.attempt, read.error) == (Status.COMPLETED, "worker", 1, None)
    assert read.finished_at is not None
    assert read.started_at is not None
    assert read.created_at <= read.started_at <= read.finished_at
    assert await tables_holding(database, job.id) == ["done"]


@pytest.mark.parametrize("result", [b"null", b"0", b'""', b"[]"])
async def test_any_json_is_a_result_even_null(caller: JobCaller, result: bytes) -> None:
    job = await caller.submit_and_claim()
    await caller.complete(job, result)
    read = await caller.get(job.id)
    assert read.status is Status.COMPLETED
    assert read.result == Raw(result)


async def test_repeating_a_completion_succeeds_and_changes_nothing(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.complete(job, b"1")
    before = await caller.get(job.id)
    assert (await caller.complete(job, b"2")).status is Status.COMPLETED
    assert await caller.get(job.id) == before


async def test_the_same_completion_many_times_at_once_counts_once(caller: JobCaller, far_caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    states = await asyncio.gather(*((caller if number % 2 else far_caller).complete(job) for number in range(20)))
    assert {state.status for state in states} == {Status.COMPLETED}
    stats = await caller.service.of(caller.tenant).stats()
    assert (stats.totals.completed, stats.totals.running) == (1, 0)
    assert await caller.history(job.id) == ["job.created", "job.started", "job.completed"]


async def test_completions_of_many_jobs_succeed_or_fail_alone(caller: JobCaller) -> None:
    await caller.submit_many(3)
    good, stale, bad = await caller.claim(3)
    completions = [
        JobCompletion(id=good.id, epoch=good.epoch, result=Raw(b"1")),
        JobCompletion(id=stale.id, epoch=stale.epoch - 1 or 99, result=Raw(b"1")),
        JobCompletion(id=uuid7(), epoch=5, result=Raw(b"1")),
    ]
    results = await caller.service.of(caller.tenant).complete_many(completions)
    assert [type(result) for result in results] == [JobState, StaleEpoch, NotFound]
    assert await caller.status(stale.id) is Status.RUNNING
    assert await caller.status(bad.id) is Status.RUNNING


@pytest.mark.parametrize("category", Category)
async def test_each_category_of_failure_uses_an_attempt_or_does_not(
    caller: JobCaller, database: Database, clock: Clock, category: Category
) -> None:
    await caller.submit(max_attempts=2)
    statuses = []
    for _ in range(4):
        jobs = await caller.claim(1, worker_id="w")
        if not jobs:
            break
        statuses.append((await caller.fail(jobs[0], category, message="why")).status)
        await clock.advance(timedelta(minutes=10))
        await promote(database)
    if category in FINAL:
        assert statuses == [FINAL[category]]
    elif category in UNBURNED:
        assert statuses == [Status.PENDING] * 4
    else:
        assert statuses == [Status.PENDING, Status.FAILED]
    (summary,) = (await caller.page()).jobs
    job = await caller.get(summary.id)
    assert [attempt.attempt for attempt in job.attempts] == list(range(1, len(statuses) + 1))
    assert {(attempt.error.category, attempt.error.message) for attempt in job.attempts} == {(category, "why")}
    if job.status.finished:
        assert job.error is not None
        assert (job.error.category, job.error.message) == (category, "why")
        assert job.finished_at is not None


async def test_a_failed_attempt_is_tried_again_after_its_backoff(
    caller: JobCaller, database: Database, clock: Clock
) -> None:
    job = await caller.submit_and_claim()
    state = await caller.fail(job, Category.INTERNAL)
    assert state.run_at is not None
    wait = state.run_at - datetime.now(UTC)
    assert timedelta(seconds=0.5) < wait < timedelta(seconds=3.1), "2 s, ±50 %"
    assert await tables_holding(database, job.id) == ["later"]
    assert (await caller.get(job.id)).run_at == state.run_at
    await promote(database)
    assert await caller.claim() == []
    await clock.advance(timedelta(seconds=4))
    await promote(database)
    again = await caller.claim_one()
    assert (again.id, again.attempt) == (job.id, 2)
    assert again.epoch > job.epoch


async def test_a_rate_limited_attempt_waits_as_long_as_the_provider_requested(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    state = await caller.fail(job, Category.RATE_LIMITED, retry_after=600)
    assert state.status is Status.PENDING
    assert state.run_at is not None
    assert timedelta(seconds=590) < state.run_at - datetime.now(UTC) < timedelta(seconds=610)


async def test_a_job_handed_back_at_shutdown_is_ready_at_once(caller: JobCaller) -> None:
    job = await caller.submit_and_claim(max_attempts=1)
    state = await caller.fail(job, Category.SHUTDOWN)
    assert (state.status, state.run_at) == (Status.PENDING, None)
    assert (await caller.claim_one()).id == job.id


async def test_a_job_handed_back_queues_behind_those_that_wait(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    other = await caller.submit()
    await caller.fail(job, Category.SHUTDOWN)
    assert [claimed.id for claimed in await caller.claim(2)] == [other.id, job.id]


async def test_a_job_whose_workers_keep_dying_ends_as_failed(database: Database, clock: Clock) -> None:
    limits = JobLimits(retry=RetryPolicy(max_lost_leases=3), max_attempts=100)
    async with job_service(database, limits) as service:
        caller = JobCaller(service, await own_tenant(database))
        made = await caller.submit()
        for round_number in range(1, 4):
            job = await caller.claim_one(lease_seconds=10)
            assert job.attempt == round_number
            await clock.advance(timedelta(seconds=11))
            await rescue(database, limits)
        ended = await caller.get(made.id)
        assert ended.status is Status.FAILED
        assert ended.error is not None
        assert ended.error.category is Category.WORKER_LOST
        assert len(ended.attempts) == 3


async def test_failures_reported_together_are_each_judged_alone(caller: JobCaller) -> None:
    await caller.submit_many(4)
    jobs = await caller.claim(4)
    categories = [Category.BAD_INPUT, Category.SHUTDOWN, Category.CANCELLED, Category.INTERNAL]
    states = await asyncio.gather(*(caller.fail(job, category) for job, category in zip(jobs, categories, strict=True)))
    assert [state.status for state in states] == ["failed", "pending", "cancelled", "pending"]


async def test_failing_an_unknown_job_is_not_found(caller: JobCaller) -> None:
    with pytest.raises(NotFound):
        await caller.service.of(caller.tenant).fail(uuid7(), Failure(epoch=1))


async def test_a_job_that_failed_twice_and_then_succeeded_has_its_whole_history(
    caller: JobCaller, database: Database, clock: Clock
) -> None:
    made = await caller.submit()
    for message in ("first", "second"):
        await caller.fail(await _claim_later(caller, database, clock), Category.TIMEOUT, message=message)
    await caller.complete(await _claim_later(caller, database, clock))
    job = await caller.get(made.id)
    assert (job.status, job.attempt, job.error) == (Status.COMPLETED, 3, None)
    assert [(attempt.attempt, attempt.error.message) for attempt in job.attempts] == [(1, "first"), (2, "second")]
    assert all(attempt.worker_id == "worker" for attempt in job.attempts)
    assert await caller.history(made.id) == [
        "job.created",
        *("job.started", "job.retrying") * 2,
        "job.started",
        "job.completed",
    ]


async def _claim_later(caller: JobCaller, database: Database, clock: Clock) -> ClaimedJob:
    await clock.advance(timedelta(minutes=6))
    await promote(database)
    return await caller.claim_one()


async def test_a_caller_that_leaves_does_not_interrupt_a_statement(
    caller: JobCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption would need its own connection and might hit the next statement; results are read to the end."""
    job = await caller.submit()
    begun, ended = asyncio.Event(), asyncio.Event()
    jobs = caller.service.of(caller.tenant)
    get = jobs.get

    async def slowly(job_id: UUID) -> Job:
        begun.set()
        found = await get(job_id)
        ended.set()
        return found

    monkeypatch.setattr(jobs, "get", slowly)
    waiting = asyncio.create_task(caller.service.of(caller.tenant).wait(job.id, timedelta(seconds=9)))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await within(ended.wait())
