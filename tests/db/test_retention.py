"""Old days are dropped as partitions; whatever is not finished, or finished lately, outlives its day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import pytest

from penstock.errors import NotFound
from penstock.jobs import retention, store
from penstock.jobs.job import JobSubmission
from penstock.jobs.names import Names
from penstock.jobs.states import ErrorCategory, Status
from penstock.jobs.store import NewJob
from penstock.postgres.pool import Database
from tests.db.stage import Caller, Clock, look, promote, run, submission

KEEP = timedelta(days=30)
OLD = datetime.now(UTC) - timedelta(days=40)
_numbers = count(1)


async def _submit_old(caller: Caller, database: Database, **fields: object) -> UUID:
    """A job whose id, and so whose partition, is of a day long ago."""
    asked: JobSubmission = submission(**fields)
    names = Names(database, caller.tenant)
    await names.learn([asked])
    series_id, lane_id = names.known_ids(asked)
    milliseconds = int(OLD.timestamp() * 1000)
    job_id = UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | next(_numbers))
    new = NewJob(id=job_id, series_id=series_id, lane_id=lane_id, max_attempts=3, submission=asked)
    async with database.acquire() as connection, connection.transaction():
        if asked.idempotency_key is not None:
            assert await store.reserve_keys(connection, caller.tenant, [new]) == {job_id}
        await store.create(connection, caller.tenant, [new])
    return job_id


async def _old_day(database: Database) -> None:
    async with database.acquire() as connection:
        assert await connection.fetchval("SELECT ensure_day($1)", OLD.date())


async def _drop(database: Database) -> int:
    async with database.acquire() as connection:
        return await retention.drop_old(connection, KEEP)


async def _age(database: Database, job_id: UUID, by: timedelta) -> None:
    """Move the end of a finished job into the past."""
    await run(database, "UPDATE done SET finished_at = finished_at - $2::interval WHERE job_id = $1", job_id, by)


async def test_an_old_day_goes_with_its_finished_jobs_and_their_keys(alone: Caller, fresh: Database) -> None:
    await _old_day(fresh)
    job_id = await _submit_old(alone, fresh, idempotency_key="k")
    claimed = await alone.claim_one()
    await alone.fail(claimed, ErrorCategory.BAD_INPUT)
    await _age(fresh, job_id, timedelta(days=35))
    assert await _drop(fresh) == 1
    with pytest.raises(NotFound):
        await alone.get(job_id)
    for table in ("job", "done", "attempt", "idempotency"):
        column = "id" if table == "job" else "job_id"
        assert await look(fresh, f"SELECT 1 FROM {table} WHERE {column} = $1", job_id) == []
    again = await alone.submit(idempotency_key="k")
    assert again.id != job_id
    assert again.status is Status.PENDING


async def test_what_is_not_finished_or_finished_lately_outlives_its_day(
    alone: Caller, fresh: Database, fresh_clock: Clock
) -> None:
    await _old_day(fresh)
    done_lately = await _submit_old(alone, fresh)
    await alone.complete(await alone.claim_one(), b'"kept"')
    running = await _submit_old(alone, fresh)
    claimed = await alone.claim_one()
    assert claimed.id == running
    scheduled = await _submit_old(alone, fresh, run_at=datetime.now(UTC) + timedelta(days=300))
    pending = await _submit_old(alone, fresh)
    assert await _drop(fresh) == 1
    assert await look(fresh, "SELECT count(*) FROM job_default") == [(4,)]
    kept = await alone.get(done_lately)
    assert (kept.status, bytes(kept.result or b"")) == (Status.COMPLETED, b'"kept"')
    assert (await alone.complete(claimed)).status is Status.COMPLETED
    later = await alone.claim_one()
    assert later.id == pending
    await alone.fail(later, ErrorCategory.BAD_INPUT)
    await alone.retry(pending)
    await alone.complete(await alone.claim_one())
    await fresh_clock.advance(timedelta(days=301))
    await promote(fresh)
    assert (await alone.claim_one()).id == scheduled
    assert len((await alone.page()).jobs) == 4


async def test_strays_are_removed_once_they_are_old_themselves(alone: Caller, fresh: Database) -> None:
    await _old_day(fresh)
    job_id = await _submit_old(alone, fresh)
    waiting = await _submit_old(alone, fresh, priority=-5)
    claimed = await alone.claim_one()
    await _drop(fresh)
    await alone.complete(claimed)
    await _drop(fresh)
    assert (await alone.get(job_id)).status is Status.COMPLETED
    await _age(fresh, job_id, timedelta(days=35))
    await _drop(fresh)
    with pytest.raises(NotFound):
        await alone.get(job_id)
    assert (await alone.get(waiting)).status is Status.PENDING
    assert await look(fresh, "SELECT count(*) FROM done_default") == [(0,)]


async def test_young_days_stay(alone: Caller, fresh: Database) -> None:
    job = await alone.submit_and_claim()
    await alone.complete(job)
    assert await _drop(fresh) == 0
    assert (await alone.get(job.id)).status is Status.COMPLETED


async def test_old_events_go_with_their_day(alone: Caller, fresh: Database) -> None:
    await _old_day(fresh)
    job = await alone.submit()
    await run(
        fresh,
        "INSERT INTO event (tenant_id, at, type, job_id) VALUES ($1, $2, 'job.created', $3)",
        alone.tenant,
        OLD,
        job.id,
    )
    assert await look(fresh, "SELECT count(*) FROM event") == [(2,)]
    await _drop(fresh)
    assert await look(fresh, "SELECT count(*) FROM event") == [(1,)]


async def test_partitions_stand_ready_a_week_ahead(fresh: Database) -> None:
    async with fresh.acquire() as connection:
        await retention.make_room(connection)
        await retention.make_room(connection)
        days = await connection.fetch("SELECT relname FROM pg_class WHERE relname ~ '^job_[0-9]{8}$' ORDER BY 1")
    today = datetime.now(UTC).date()
    expected = [f"job_{today + timedelta(days=ahead):%Y%m%d}" for ahead in range(-1, 8)]
    assert [row["relname"] for row in days] == expected


async def test_a_day_that_lies_in_the_default_partition_stays_there(alone: Caller, fresh: Database) -> None:
    job_id = await _submit_old(alone, fresh)
    async with fresh.acquire() as connection:
        assert await connection.fetchval("SELECT ensure_day($1)", OLD.date()) is False
    assert (await alone.get(job_id)).status is Status.PENDING
    assert (await alone.claim_one()).id == job_id
