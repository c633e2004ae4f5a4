"""Fencing: a worker that has lost its lease changes nothing, whatever it writes and however the lease was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

import pytest
from msgspec import Raw

from penstock.errors import StaleEpoch
from penstock.failures import Category
from penstock.jobs.sql import store
from penstock.jobs.sql.rows import NO_MAIL
from penstock.jobs.sql.store import Verdict
from penstock.jobs.states import Over, Status
from penstock.jobs.work import ClaimedJob, Failure, JobCompletion, JobHeartbeat
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.clocks import Clock
from tests.support.databases import snapshot
from tests.support.duties import rescue
from tests.support.jobs import JobCaller
from tests.support.waiting import until

Loss: TypeAlias = Callable[[JobCaller, ClaimedJob, Database, Clock], Awaitable[None]]
Write: TypeAlias = Callable[[JobCaller, ClaimedJob], Awaitable[None]]


async def _rescued(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await clock.advance(caller.service.limits.lease + timedelta(seconds=1))
    await rescue(database)


async def _rescued_and_claimed_again(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await _rescued(caller, job, database, clock)
    assert (await caller.claim_one(worker_id="successor")).id == job.id


async def _retried(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await caller.retry(job.id)


async def _retried_and_claimed_by_the_same_worker(
    caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock
) -> None:
    await caller.retry(job.id)
    assert (await caller.claim_one()).id == job.id


async def _failed_and_scheduled(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await caller.fail(job)


async def _failed_for_good(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await caller.fail(job, Category.BAD_INPUT)


async def _cancelled_after_the_grace(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await caller.cancel(job.id)
    await clock.advance(timedelta(minutes=1))
    await rescue(database)


async def _completed_by_a_successor(caller: JobCaller, job: ClaimedJob, database: Database, clock: Clock) -> None:
    await _rescued_and_claimed_again(caller, job, database, clock)
    (lease,) = (await caller.page(status=[Status.RUNNING])).jobs
    epoch = job.epoch + 1
    await caller.service.of(caller.tenant).complete(JobCompletion(id=lease.id, epoch=epoch, result=Raw(b'"right"')))


async def _beat(caller: JobCaller, job: ClaimedJob) -> None:
    assert isinstance(await caller.beat(job, progress=b'"zombie"', lease_seconds=9999), StaleEpoch)


async def _report(caller: JobCaller, job: ClaimedJob) -> None:
    assert isinstance(await caller.report(job, b'"zombie"', lines=["zombie"]), StaleEpoch)


async def _report_with_a_gap(caller: JobCaller, job: ClaimedJob) -> None:
    assert isinstance(await caller.report(job, b'"zombie"', first=99), StaleEpoch)


async def _complete(caller: JobCaller, job: ClaimedJob) -> None:
    with pytest.raises(StaleEpoch):
        await caller.complete(job, b'"zombie"')


async def _complete_many(caller: JobCaller, job: ClaimedJob) -> None:
    (result,) = await caller.service.of(caller.tenant).complete_many([JobCompletion(id=job.id, epoch=job.epoch)])
    assert isinstance(result, StaleEpoch)


def _fail(category: Category) -> Write:
    async def fail(caller: JobCaller, job: ClaimedJob) -> None:
        with pytest.raises(StaleEpoch):
            await caller.fail(job, category, message="zombie", retry_after=1)

    return fail


LOSSES: list[Loss] = [
    _rescued,
    _rescued_and_claimed_again,
    _retried,
    _retried_and_claimed_by_the_same_worker,
    _failed_and_scheduled,
    _failed_for_good,
    _cancelled_after_the_grace,
    _completed_by_a_successor,
]
WRITES: dict[str, Write] = {
    "heartbeat": _beat,
    "output": _report,
    "output with a gap": _report_with_a_gap,
    "complete": _complete,
    "complete_many": _complete_many,
    **{f"fail {category}": _fail(category) for category in Category},
}


@pytest.mark.parametrize("lose", LOSSES, ids=lambda loss: str(loss.__name__).strip("_"))
async def test_no_write_with_a_stale_epoch_changes_a_row(
    alone: JobCaller, fresh: Database, fresh_clock: Clock, lose: Loss
) -> None:
    job = await alone.submit_and_claim()
    await lose(alone, job, fresh, fresh_clock)
    before = await snapshot(fresh)
    for name, write in WRITES.items():
        await write(alone, job)
        assert await snapshot(fresh) == before, name


@pytest.mark.parametrize("offset", [-1, 1, 1000])
async def test_an_epoch_that_was_never_this_jobs_changes_nothing(
    alone: JobCaller, fresh: Database, offset: int
) -> None:
    job = await alone.submit_and_claim()
    other = await alone.submit_and_claim()
    before = await snapshot(fresh)
    for epoch in {max(1, job.epoch + offset), other.epoch} - {job.epoch}:
        (beat,) = await alone.service.of(alone.tenant).heartbeat([JobHeartbeat(id=job.id, epoch=epoch)])
        assert isinstance(beat, StaleEpoch)
        with pytest.raises(StaleEpoch):
            await alone.service.of(alone.tenant).complete(JobCompletion(id=job.id, epoch=epoch))
        with pytest.raises(StaleEpoch):
            await alone.service.of(alone.tenant).fail(job.id, Failure(epoch=epoch))
    assert await snapshot(fresh) == before


async def test_a_stale_write_among_good_ones_of_one_batch_stops_none_of_them(alone: JobCaller, fresh: Database) -> None:
    await alone.submit_many(10)
    jobs = await alone.claim(10)
    await alone.retry(jobs[4].id)
    completions = [JobCompletion(id=job.id, epoch=job.epoch) for job in jobs]
    results = await alone.service.of(alone.tenant).complete_many(completions)
    assert [isinstance(result, StaleEpoch) for result in results] == [number == 4 for number in range(10)]
    assert (await alone.service.of(alone.tenant).stats()).totals.completed == 9


async def test_a_lease_that_is_lost_while_the_write_waits_for_its_lock_is_not_written(
    alone: JobCaller, fresh: Database
) -> None:
    """The writer reads the lease while it still holds, and waits for the transaction that is just taking it away."""
    job = await alone.submit_and_claim()
    async with fresh.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.retry(connection, alone.tenant, [job.id])
        late = alone.service.of(alone.tenant).complete(JobCompletion(id=job.id, epoch=job.epoch))

        async def waits() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waits, "the completion waits for the lock")
        await transaction.commit()
    with pytest.raises(StaleEpoch):
        await late
    assert await alone.status(job.id) is Status.PENDING


async def test_no_outcome_is_decided_for_a_lease_not_locked_with_its_epoch(alone: JobCaller, fresh: Database) -> None:
    job = await alone.submit_and_claim()
    async with fresh.acquire() as connection:
        assert await store.lock_leases(connection, alone.tenant, [(job.id, job.epoch + 1)]) == []
        assert await store.lock_leases(connection, TenantId(alone.tenant + 1), [(job.id, job.epoch)]) == []
        verdict = Verdict(job_id=job.id, outcome=Over(status=Status.FAILED), category=Category.INTERNAL, message="")
        assert await store.end_attempts(connection, TenantId(alone.tenant + 1), [verdict]) == ({}, NO_MAIL)
    assert await alone.status(job.id) is Status.RUNNING
