"""Live usage reaches the ledger exactly once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import DatabaseUnavailable, Overloaded
from penstock.jobs.usage import Usage
from penstock.postgres.pool import Database
from penstock.tenants.principal import OPERATOR, Principal, TenantId
from penstock.usage.calls import Amounts, Dims
from penstock.usage.live import LiveUsage
from penstock.usage.prices import Measured
from penstock.usage.spool import FIRST_BYTES
from penstock.usage.sql import live, rollup
from tests.support.clocks import Clock
from tests.support.database_proxy import DatabaseProxy, database_over
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller, job_service
from tests.support.waiting import until, within

SOON = timedelta(milliseconds=1)
USED = Measured(completed=1, prompt_tokens=3, completion_tokens=4, model_us=1500)


def record(usage: LiveUsage, count: int = 1, *, model: str = "echo", who: Principal = OPERATOR) -> None:
    for _ in range(count):
        usage.record(who, model=model, version="1", failed=False, measured=USED, bytes_in=10, bytes_out=20)


async def ledger(database: Database) -> list[tuple[Any, ...]]:
    """Return calls and completion tokens by model, of all that is in the ledger."""
    return await query(
        database,
        "SELECT model, sum(calls)::int, sum(completion_tokens)::int FROM (SELECT model, calls, completion_tokens"
        " FROM usage_delta UNION ALL SELECT d.model, h.calls, h.completion_tokens FROM usage_sum h"
        " JOIN usage_dims d ON d.id = h.dims_id WHERE NOT h.broad AND unit = 'hour') u GROUP BY model ORDER BY model",
    )


@asynccontextmanager
async def running(usage: LiveUsage) -> AsyncIterator[LiveUsage]:
    await usage.start()
    try:
        yield usage
    finally:
        await usage.stop()


@pytest.fixture
async def over_line(line: DatabaseProxy, fresh: Database) -> AsyncIterator[Database]:
    database = database_over(line, fresh.url)
    yield database
    await database.close()


async def test_calls_are_flushed_within_their_interval_and_at_the_stop(fresh: Database, tmp_path: Path) -> None:
    async with running(LiveUsage(fresh, folder=tmp_path, interval=SOON)) as usage:
        record(usage, 3)
        await until(lambda: usage.unflushed == 0, "the calls were flushed")
        assert await ledger(fresh) == [("echo", 3, 12)]
        record(usage, 2, model="other")
    assert await ledger(fresh) == [("echo", 3, 12), ("other", 2, 8)]
    assert list(tmp_path.iterdir()) == [], "what is in the database is not in the spool"


async def test_a_flush_whose_commit_was_not_confirmed_is_written_once(
    fresh: Database, over_line: Database, line: DatabaseProxy, tmp_path: Path
) -> None:
    """The response to the flush is lost after the server has committed it; the flush is sent again by its number."""
    async with running(LiveUsage(over_line, folder=tmp_path / "spool", interval=SOON)) as usage:
        record(usage)  # so that the statement is prepared
        await until(lambda: usage.unflushed == 0, "the first call was flushed")
        line.lose_response_to(b"ambiguous")
        record(usage, 5, model="ambiguous")
        await within(line.lost.wait())
        await until(lambda: usage.unflushed == 0, "the calls were flushed")
    assert await ledger(fresh) == [("ambiguous", 5, 20), ("echo", 1, 4)]


async def test_a_flush_waits_for_an_earlier_try_that_is_still_committing(fresh: Database, tmp_path: Path) -> None:
    """The first try is in an open transaction when the second one begins: the row lock decides, not the snapshot."""
    usage = LiveUsage(fresh)
    rows = [(Dims(TenantId(1), "", "", "", "m", "1", "", ""), 0.0, Amounts(calls=1))]
    async with fresh.acquire() as first, fresh.acquire() as second:
        submitters = await live.resolve_submitters(first, [(TenantId(1), "", "")])
        for number, outcome in ((1, True), (2, False)):
            transaction = first.transaction()
            await transaction.start()
            assert (await live.flush(first, usage.source, number, rows, submitters))[0]
            again = asyncio.create_task(live.flush(second, usage.source, number, rows, submitters))
            await until(lambda: _blocked(fresh), "the second try waits")
            await (transaction.commit() if outcome else transaction.rollback())
            written, _ = await within(again)
            assert written is not outcome
    assert (await ledger(fresh))[0][1] == 2


async def _blocked(database: Database) -> bool:
    ((count,),) = await query(database, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return bool(count)


async def test_a_killed_process_loses_nothing_that_it_spooled(fresh: Database, tmp_path: Path) -> None:
    """The next process of the host flushes the file; a flush that the dead one had committed is not written again."""
    dead = LiveUsage(fresh, folder=tmp_path)
    await dead.start()
    for task in dead._tasks:
        task.cancel()
    record(dead, 7)
    dead._rotate()
    assert dead._flushing is not None
    await dead._write(dead.source, dead._flushing.number, dead._flushing.sums, now=time.monotonic)  # and then it dies
    record(dead, 2, model="second")
    for segment in (dead._flushing, dead._active):
        assert segment.file is not None
        segment.file.close()  # as the kernel does at the end of a process
    assert len(list(tmp_path.iterdir())) == 2
    async with running(LiveUsage(fresh, folder=tmp_path)):
        await until(lambda: not list(tmp_path.glob(f"{dead.source.hex}.*")), "the files were flushed")
    assert await ledger(fresh) == [("echo", 7, 28), ("second", 2, 8)]


async def test_files_of_a_running_process_are_left_alone_and_damaged_ones_set_aside(
    fresh: Database, tmp_path: Path
) -> None:
    (tmp_path / "0.1.usage").write_bytes(b"not usage" * 100)
    one, other = (LiveUsage(fresh, folder=tmp_path, interval=timedelta(hours=1)) for _ in range(2))
    await one.start()
    record(one, 4)
    assert await other.replay() == 0
    assert (tmp_path / "0.1.unread").exists()
    await one.stop()
    assert await ledger(fresh) == [("echo", 4, 16)]


async def test_a_long_outage_is_summed_up_and_then_refuses_calls_instead_of_losing_them(
    fresh: Database, over_line: Database, line: DatabaseProxy, tmp_path: Path
) -> None:
    await line.cut()
    async with running(
        LiveUsage(over_line, folder=tmp_path / "spool", max_bytes=2 * FIRST_BYTES, interval=SOON)
    ) as usage:
        record(usage, 20_000)  # many calls of one kind fit into any spool
        usage.require_room()
        calls = 20_000
        while not _is_full(usage):
            record(usage, who=replace(OPERATOR, user=f"user-{calls}"))
            calls += 1
        record(usage, 5)  # those in flight
        assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= 2 * FIRST_BYTES
        await line.mend()
        await until(lambda: usage.unflushed == 0, "the calls were flushed", seconds=30)
        usage.require_room()
    assert await ledger(fresh) == [("echo", calls + 5, 4 * (calls + 5))]


def _is_full(usage: LiveUsage) -> bool:
    try:
        usage.require_room()
    except Overloaded:
        return True
    return False


async def test_without_a_folder_calls_are_kept_in_memory(fresh: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with running(LiveUsage(fresh, folder=tmp_path / "file" / "spool", interval=SOON)) as usage:
        record(usage, 3)
    assert await ledger(fresh) == [("echo", 3, 12)]


@pytest.mark.parametrize("skew", [-60, 60])
async def test_the_hour_comes_from_the_clock_of_the_database(
    fresh: Database, fresh_clock: Clock, tmp_path: Path, skew: int
) -> None:
    await fresh_clock.freeze()
    await execute(
        fresh,
        "CREATE OR REPLACE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
        " RETURN timestamptz '2027-01-01T00:00:10Z'",
    )
    wall = 1798761610.0 + skew  # 2027-01-01T00:00:10Z
    usage = LiveUsage(fresh, folder=tmp_path, wall=lambda: wall)
    async with running(usage):
        record(usage, 2)
    async with fresh.acquire() as connection:
        assert await rollup.roll_up(connection) == 1
    rows = await query(fresh, "SELECT unit, starts_at, calls FROM usage_sum WHERE broad ORDER BY unit")
    assert rows == [(unit, datetime(2027, 1, 1, tzinfo=UTC), 2) for unit in ("day", "hour", "month")]


async def test_a_completion_whose_commit_was_not_confirmed_is_accounted_once(
    fresh: Database, over_line: Database, line: DatabaseProxy, tmp_path: Path
) -> None:
    """The worker got no response and sends it again; the lease has ended, so there is nothing to account."""
    async with job_service(over_line) as service:
        caller = JobCaller(service, TenantId(1))
        job = await caller.submit_and_claim()
        used = [Usage(provider="far", model="ambiguous", prompt_tokens=7)]
        line.lose_response_to(b"ambiguous")
        with pytest.raises(DatabaseUnavailable):
            await within(caller.complete(job, usage=used))
        assert line.lost.is_set()
        await caller.complete(job, usage=used)
    sums = "SELECT sum(attempts)::int, sum(calls)::int, sum(prompt_tokens)::int FROM usage_delta"
    assert await query(fresh, sums) == [(1, 1, 7)]
