"""Retention: finished jobs go with their day, whatever is unfinished or finished lately stays, keys live as jobs do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from penstock.errors import NotFound
from penstock.failures import Category
from penstock.housekeeping.retention import Retention
from penstock.jobs.job import Job
from penstock.jobs.sql import retention
from penstock.jobs.states import Status
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import query, snapshot, tables_holding
from tests.support.duties import promote
from tests.support.jobs import JobCaller, submission
from tests.support.waiting import within

KEEP = timedelta(days=30)
LATER = timedelta(days=40)


async def _tidy(database: Database) -> None:
    await Retention(database, KEEP).once()


async def _days(database: Database, table: str) -> set[date]:
    """Return the days that have a partition of this table."""
    rows = await query(
        database,
        "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = $1::text::regclass AND c.relname ~ '_[0-9]{8}$'",
        table,
    )
    return {day for (day,) in rows}


async def _rows_about(database: Database, job_id: UUID) -> dict[str, int]:
    """Return how many rows of each table refer to the job."""
    counts: dict[str, int] = {}
    for table in ("job", "ready", "later", "lease", "done", "attempt", "idempotency"):
        column = "id" if table == "job" else "job_id"
        ((counts[table],),) = await query(database, f"SELECT count(*) FROM {table} WHERE {column} = $1", job_id)
    return {table: count for table, count in counts.items() if count}


async def _completed(caller: JobCaller, **fields: str) -> Job:
    """Run a job that fails once and then succeeds, and return it."""
    job = await caller.submit(**fields)
    await caller.fail(await caller.claim_one(), Category.SHUTDOWN)
    await caller.complete(await caller.claim_one())
    return await caller.get(job.id)


async def test_finished_jobs_are_dropped_with_their_day_attempts_and_keys(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    completed = await _completed(alone, idempotency_key="k")
    failed = await alone.submit_and_claim(idempotency_key="l")
    await alone.fail(failed, Category.BAD_INPUT)
    cancelled = await alone.submit(idempotency_key="m")
    await alone.cancel(cancelled.id)
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    for job_id in (completed.id, failed.id, cancelled.id):
        assert await _rows_about(fresh, job_id) == {}
        with pytest.raises(NotFound):
            await alone.get(job_id)
    assert (await alone.page()).jobs == []
    again = await alone.service.of(alone.tenant).submit(submission(idempotency_key="k", priority=9))
    assert again.created, "the key is free for any request"


async def test_unfinished_jobs_outlive_their_day_and_continue(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    pending = await alone.submit(idempotency_key="k", input=b"[1]")
    far_ahead = await alone.submit(run_at=datetime.now(UTC) + timedelta(days=60), task_type="far")
    await alone.submit(task_type="run")
    running = await alone.claim_one(task_types=["run"], lease_seconds=86400)
    before = {job_id: await alone.get(job_id) for job_id in (pending.id, far_ahead.id, running.id)}
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    for job_id, job in before.items():
        assert await alone.get(job_id) == job
    assert {job.id for job in (await alone.page()).jobs} == before.keys()
    assert (
        await alone.service.of(alone.tenant).submit(submission(idempotency_key="k", input=b"[1]"))
    ).job.id == pending.id

    claimed = await alone.claim_one(task_types=["echo"])
    assert (claimed.id, bytes(claimed.input)) == (pending.id, b"[1]")
    await alone.complete(claimed)
    await alone.fail(running, Category.SHUTDOWN)
    await alone.complete(await alone.claim_one(task_types=["run"]))
    await fresh_clock.advance(timedelta(days=21))
    await promote(fresh)
    await alone.complete(await alone.claim_one(task_types=["far"]))
    assert {await alone.status(job_id) for job_id in before} == {Status.COMPLETED}


async def test_a_job_that_finished_recently_stays_however_old_it_is(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    old, recent = await alone.submit(), await alone.submit(idempotency_key="k")
    await alone.complete(await alone.claim_one())
    await fresh_clock.advance(LATER - timedelta(days=5))
    await alone.fail(await alone.claim_one(), Category.SHUTDOWN)
    await alone.complete(await alone.claim_one(), b'"late"')
    kept = await alone.get(recent.id)
    assert len(kept.attempts) == 1
    await fresh_clock.advance(timedelta(days=5))
    await _tidy(fresh)
    assert await _rows_about(fresh, old.id) == {}
    assert await alone.get(recent.id) == kept
    assert await _rows_about(fresh, recent.id) == {"job": 1, "done": 1, "attempt": 1, "idempotency": 1}


async def test_jobs_that_outlived_their_day_are_removed_by_row_once_they_are_old(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    made = await alone.submit_many(1200, idempotency_key=None)
    keyed = await alone.submit(idempotency_key="k")
    unfinished = await alone.submit(priority=-100)
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    jobs = await alone.claim(1000) + await alone.claim(201)
    for job in jobs[:3]:
        await alone.fail(job, Category.SHUTDOWN)
    jobs = jobs[3:] + await alone.claim(4, task_types=["echo"])
    assert {job.id for job in jobs} == {job.id for job in [*made, keyed, unfinished]}
    jobs = [job for job in jobs if job.id != unfinished.id]
    await asyncio.gather(*(alone.complete(job) for job in jobs))
    await _tidy(fresh)
    assert await alone.status(keyed.id) is Status.COMPLETED, "finished today"
    await fresh_clock.advance(KEEP + timedelta(days=2))
    await _tidy(fresh)
    for table in ("done", "attempt", "idempotency"):
        assert await query(fresh, f"SELECT 1 FROM {table}") == [], table
    assert await query(fresh, "SELECT id FROM job") == [(unfinished.id,)]
    assert await tables_holding(fresh, unfinished.id) == ["lease"]


async def test_recent_days_are_not_touched(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    await _completed(alone, idempotency_key="k")
    await alone.submit_many(3)
    await fresh_clock.advance(KEEP)
    before = await snapshot(fresh)
    await _tidy(fresh)
    assert await snapshot(fresh) == before


async def test_events_are_dropped_with_their_day_even_without_a_partition(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await _completed(alone)
    await fresh_clock.advance(timedelta(days=20))  # no partition yet: the default one takes them
    await _completed(alone)
    await fresh_clock.advance(timedelta(days=15))
    await alone.submit()
    await fresh_clock.advance(timedelta(days=5))
    await _tidy(fresh)
    assert len(await query(fresh, "SELECT 1 FROM event")) == 5 + 1
    await fresh_clock.advance(timedelta(days=20))
    await _tidy(fresh)
    assert len(await query(fresh, "SELECT 1 FROM event")) == 1
    await fresh_clock.advance(timedelta(days=20))
    await _tidy(fresh)
    assert await query(fresh, "SELECT 1 FROM event") == []


async def test_partitions_stand_ready_a_week_ahead_and_old_ones_go(fresh: Database, fresh_clock: Clock) -> None:
    today = datetime.now(UTC).date()
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    wanted = {today + LATER + timedelta(days=ahead) for ahead in range(-1, 8)}
    for table in ("job", "done", "attempt", "event"):
        assert await _days(fresh, table) == wanted, table


async def test_a_day_that_has_its_partitions_is_left_as_it_is(fresh: Database) -> None:
    before = await _days(fresh, "job")
    await _tidy(fresh)
    await _tidy(fresh)
    assert await _days(fresh, "job") == before


async def test_a_day_whose_rows_lie_in_a_default_partition_stays_there(alone: JobCaller, fresh: Database) -> None:
    wild = datetime.now(UTC) + timedelta(days=20)
    async with fresh.acquire() as connection:
        await connection.execute(
            "INSERT INTO event (tenant_id, at, kind, job_id) VALUES ($1, $2, 'job.created', gen_random_uuid())",
            alone.tenant,
            wild,
        )
        assert not await connection.fetchval("SELECT ensure_day($1)", wild.date())
        assert wild.date() not in await _days(fresh, "job"), "all of the day's partitions or none"
        assert await connection.fetchval("SELECT ensure_day($1)", wild.date() + timedelta(days=1))


async def test_counters_are_not_changed_by_retention(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    await _completed(alone)
    await alone.submit()
    before = (await alone.service.of(alone.tenant).stats()).totals
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    assert (await alone.service.of(alone.tenant).stats()).totals == before


async def test_retention_gives_way_to_users_of_the_tables_and_retries(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    old = await _completed(alone)
    await fresh_clock.advance(LATER)
    async with fresh.acquire() as connection:
        await partitions.make_room(connection)
    async with _held(fresh, "SELECT count(*) FROM job"):
        await within(_tidy(fresh))
        assert await alone.status(old.id) is Status.COMPLETED
    await _tidy(fresh)
    assert await _rows_about(fresh, old.id) == {}


async def test_two_housekeepers_may_tidy_at_once(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    old = await _completed(alone)
    kept = await alone.submit()
    await fresh_clock.advance(LATER)
    results = await asyncio.gather(_tidy(fresh), _tidy(fresh), return_exceptions=True)
    assert not [result for result in results if isinstance(result, asyncpg.PostgresError)]
    await _tidy(fresh)
    assert await _rows_about(fresh, old.id) == {}
    assert await alone.status(kept.id) is Status.PENDING


async def test_a_kept_job_can_be_cancelled_retried_and_found(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    one = await alone.submit(tags=["kept"])
    two = await alone.submit(tags=["kept"], max_attempts=1)
    await fresh_clock.advance(LATER)
    await _tidy(fresh)
    await alone.cancel(one.id)
    (job,) = await alone.claim()
    await alone.fail(job)
    await alone.retry(two.id)
    found = await alone.page(tags=["kept"])
    assert {(job.id, job.status) for job in found.jobs} == {(one.id, "cancelled"), (two.id, "pending")}


async def test_dropping_returns_the_number_of_days_dropped(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await fresh_clock.advance(LATER)
    async with fresh.acquire() as connection:
        days = len(await _days(fresh, "job"))
        assert await retention.drop_old(connection, KEEP) == days
        assert await retention.drop_old(connection, KEEP) == 0


@asynccontextmanager
async def _held(database: Database, sql: str) -> AsyncIterator[None]:
    """Hold a reader's transaction open."""
    async with database.acquire() as connection, connection.transaction():
        await connection.fetchval(sql)
        yield
