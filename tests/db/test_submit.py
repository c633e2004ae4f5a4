"""Submissions, alone and in batches: what is stored and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.errors import InvalidInput, NotFound
from penstock.jobs.limits import JobLimits
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.support.databases import own_tenant, query, tables_holding
from tests.support.jobs import JobCaller, job_service, submission


async def test_a_submitted_job_reads_back_as_it_was_submitted(caller: JobCaller) -> None:
    run_at = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = await caller.submit(
        owner_service="billing",
        owner_ref="invoice/7",
        task_type="read",
        model_profile="large",
        input=b'{"b": 1, "a": [2,  3]}',
        priority=-7,
        max_attempts=9,
        run_at=run_at,
        timeout_seconds=1.5,
        idempotency_key="k",
        concurrency_key="customer 7",
        tags=["x", "y z"],
    )
    job = await caller.get(made.id)
    assert job == made
    assert bytes(job.input) == b'{"b": 1, "a": [2,  3]}', "input is stored as it was written, not reformatted"
    assert (job.owner_service, job.owner_ref, job.task_type, job.model_profile) == (
        "billing",
        "invoice/7",
        "read",
        "large",
    )
    assert (job.status, job.attempt, job.priority, job.max_attempts) == (Status.PENDING, 0, -7, 9)
    assert (job.run_at, job.timeout_seconds, job.idempotency_key, job.tags) == (run_at, 1.5, "k", ["x", "y z"])
    assert job.concurrency_key == "customer 7"


async def test_a_job_without_a_limit_of_attempts_gets_the_configured_one(database: Database) -> None:
    async with job_service(database, JobLimits(max_attempts=7)) as service:
        caller = JobCaller(service, await own_tenant(database))
        assert (await caller.submit()).max_attempts == 7
        assert (await caller.submit(max_attempts=2)).max_attempts == 2


async def test_ids_are_version_7_and_grow_with_time(caller: JobCaller) -> None:
    ids = [(await caller.submit()).id for _ in range(5)]
    assert ids == sorted(ids)
    assert {job_id.version for job_id in ids} == {7}


async def test_an_unknown_id_is_not_found(caller: JobCaller) -> None:
    with pytest.raises(NotFound):
        await caller.get(uuid7())


async def test_a_batch_returns_its_jobs_in_order(caller: JobCaller) -> None:
    wanted = [submission(owner_ref=f"n{number}", priority=number % 3) for number in range(250)]
    results = await caller.service.of(caller.tenant).submit_many(wanted)
    assert [result.job.owner_ref for result in results] == [f"n{number}" for number in range(250)]
    assert all(result.created for result in results)
    stored = await caller.get(results[123].job.id)
    assert stored.owner_ref == "n123"


async def test_a_batch_with_one_bad_job_creates_none(caller: JobCaller, database: Database) -> None:
    wanted = [submission(), submission(input=b'{"half": '), submission(idempotency_key="kept free")]
    with pytest.raises(InvalidInput):
        await caller.service.of(caller.tenant).submit_many(wanted)
    for table in ("job", "ready", "event", "stat_delta", "idempotency"):
        assert await query(database, f"SELECT 1 FROM {table} WHERE tenant_id = $1", caller.tenant) == []


async def test_of_concurrent_submissions_a_bad_one_fails_alone(caller: JobCaller) -> None:
    bad = {7, 31}
    results = await asyncio.gather(
        *(caller.submit(input=b"{oops" if number in bad else b"1") for number in range(40)), return_exceptions=True
    )
    assert {number for number, result in enumerate(results) if isinstance(result, InvalidInput)} == bad
    assert sum(not isinstance(result, BaseException) for result in results) == 38


async def test_ten_thousand_jobs_fit_in_one_batch(caller: JobCaller, database: Database) -> None:
    await caller.submit_many(10_000)
    ((count,),) = await query(database, "SELECT count(*) FROM ready WHERE tenant_id = $1", caller.tenant)
    assert count == 10_000
    stats = await caller.service.of(caller.tenant).stats()
    assert stats.totals.pending == 10_000


async def test_a_job_due_in_the_future_waits_in_later_and_one_due_in_the_past_is_ready(
    caller: JobCaller, database: Database
) -> None:
    now = datetime.now(UTC)
    future = await caller.submit(run_at=now + timedelta(hours=1))
    past = await caller.submit(run_at=now - timedelta(hours=1))
    assert await tables_holding(database, future.id) == ["later"]
    assert await tables_holding(database, past.id) == ["ready"]
    assert [job.id for job in await caller.claim(10)] == [past.id]


async def test_input_may_be_left_out(caller: JobCaller) -> None:
    job = await caller.submit()
    assert (await caller.get(job.id)).input == Raw(b"{}")
