"""Positions of events are dense and given once, by any process, whatever is cut off or held open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from msgspec import Raw

from penstock.events import store as event_log
from penstock.events.positions import Positions
from penstock.jobs.sql import retention
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant, query
from tests.support.jobs import JobCaller, take
from tests.support.waiting import within

LOCK = "hashtext('penstock.position_events')"


async def test_positions_are_dense_and_given_once_while_many_write_and_number(
    alone: JobCaller, fresh: Database
) -> None:
    """Two tenants, statements that fail, and several processes that number at once."""
    other = JobCaller(alone.service, await own_tenant(fresh))
    async with _numbering(fresh, processes=4):
        for _ in range(10):
            await asyncio.gather(
                *(caller.submit() for caller in (alone, other) for _ in range(10)), alone.submit_many(20), _fail(fresh)
            )
    await _number(fresh)
    await _assert_dense(fresh)
    counts = await query(fresh, "SELECT count(*) FROM event_position GROUP BY tenant_id")
    assert len(counts) == 2


async def test_two_processes_that_number_at_once_without_the_lock_give_no_position_twice(
    alone: JobCaller, fresh: Database
) -> None:
    """The lock saves work. What lets only one succeed is the row of event_pass that each of them has to replace."""
    ((source,),) = await query(fresh, "SELECT pg_get_functiondef('position_events'::regproc)")
    condition = f"NOT pg_try_advisory_xact_lock({LOCK})"
    assert condition in source
    await execute(fresh, source.replace(condition, "false"))
    async with _numbering(fresh, processes=4):
        for _ in range(20):
            await asyncio.gather(*(alone.submit() for _ in range(10)))
    await _number(fresh)
    await _assert_dense(fresh)


async def test_a_pass_gives_way_to_one_in_progress_without_waiting(alone: JobCaller, fresh: Database) -> None:
    await alone.submit()
    async with fresh.acquire() as holder:
        async with holder.transaction():
            await holder.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            assert not await within(_number(fresh), 2)
        assert await _number(fresh)
    await _assert_dense(fresh)


@pytest.mark.parametrize("ending", ["the connection is cut", "a statement timeout strikes"])
async def test_a_pass_that_is_cut_off_leaves_nothing_behind(alone: JobCaller, fresh: Database, ending: str) -> None:
    await alone.submit_many(5)
    async with fresh.acquire() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE event_position IN ACCESS EXCLUSIVE MODE")  # a pass stops half way
        async with _own_connection(fresh) as connection:
            if ending == "a statement timeout strikes":
                await connection.execute("SET statement_timeout = '100ms'")
                with pytest.raises(asyncpg.QueryCanceledError):
                    await within(event_log.position_events(connection))
            else:
                passing = asyncio.create_task(event_log.position_events(connection))
                await _cut_pass(fresh)
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    await within(passing)
    await _until_numbered(fresh)
    await _assert_dense(fresh)


async def test_ids_of_failed_statements_are_given_up_once_no_writer_can_commit_them(
    alone: JobCaller, fresh: Database
) -> None:
    positions = Positions(fresh)
    async with fresh.acquire() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await event_log.record(writer, alone.tenant, "late", kind="test.late", data=Raw(b"{}"))
        await _fail(fresh)
        await alone.submit()
        for _ in range(4):
            await positions.once()
        assert await _missing(fresh) == 2, "the writer's id may still come, and while it may, nothing is given up"
        await transaction.commit()
    for _ in range(3):
        await positions.once()
    assert await _missing(fresh) == 0
    await _assert_dense(fresh)
    assert [e.subject for e in await take(alone.events(after="0-0-0"), 2)][1] == "late"


async def test_the_first_id_of_all_is_not_given_up_before_it_was_drawn(alone: JobCaller, fresh: Database) -> None:
    ((drawn,),) = await query(fresh, "SELECT is_called FROM event_id")
    assert not drawn, "the test has to begin before the first event"
    positions = Positions(fresh)
    await positions.once()
    async with fresh.acquire() as writer, writer.transaction():
        await event_log.record(writer, alone.tenant, "late", kind="test.late", data=Raw(b"{}"))
        async with fresh.acquire() as other:
            await event_log.record(other, alone.tenant, "early", kind="test.early", data=Raw(b"{}"))
        for _ in range(2):
            await positions.once()
    await _number(fresh)
    await _assert_dense(fresh)
    assert [e.subject for e in await take(alone.events(after="0-0-0"), 2)] == ["early", "late"]


async def test_busy_writers_do_not_keep_missing_ids_from_being_given_up(alone: JobCaller, fresh: Database) -> None:
    """Some transaction is always open, but never the same one."""
    positions = Positions(fresh)
    await _fail(fresh)
    async with fresh.acquire() as first, fresh.acquire() as second:
        await first.execute("BEGIN")
        await event_log.record(first, alone.tenant, "s", kind="test.one", data=Raw(b"{}"))
        for _ in range(3):
            first, second = second, first  # noqa: PLW2901  # the writers take turns
            await first.execute("BEGIN")
            await event_log.record(first, alone.tenant, "s", kind="test.one", data=Raw(b"{}"))
            await positions.once()
            await second.execute("COMMIT")
            await positions.once()
        ((lost,),) = await query(fresh, "SELECT missing @> 1::bigint FROM event_pass")
        assert not lost
        await first.execute("COMMIT")
    await positions.once()
    await _assert_dense(fresh)


async def test_a_pass_costs_the_same_while_a_transaction_is_held_open(alone: JobCaller, fresh: Database) -> None:
    """Passes leave dead rows behind which cannot be vacuumed then; none is read."""
    stranger = await asyncpg.connect(fresh.url)
    try:
        async with stranger.transaction(isolation="repeatable_read"):
            await stranger.fetchval("SELECT count(*) FROM penstock.tenant")
            costs = []
            for _ in range(3):
                for _ in range(150):
                    await alone.submit()
                    await _number(fresh)
                await alone.submit()
                costs.append(await _pages_of_a_pass(fresh))
    finally:
        await stranger.close()
    ((passes,),) = await query(fresh, "SELECT count(*) FROM event_pass")
    assert passes == 1
    assert costs[2] <= costs[0] * 1.3 + 5, costs


async def test_readers_alone_give_up_missing_ids_as_well(alone: JobCaller, fresh: Database) -> None:
    """No housekeeper runs here, and yet the list of missing ids stays short."""
    for _ in range(20):
        await _fail(fresh)
        await alone.submit()
        await _number(fresh)
        await execute(fresh, "UPDATE event_pass SET noted_at = noted_at - interval '1 minute'")
    assert 0 < await _missing(fresh) <= 2


async def test_a_clock_that_was_set_back_does_not_keep_missing_ids(alone: JobCaller, fresh: Database) -> None:
    await _fail(fresh)
    await alone.submit()
    await _number(fresh)
    for _ in range(2):
        await execute(fresh, "UPDATE event_pass SET noted_at = clock_timestamp() + interval '1 day'")
        await _number(fresh)
    assert await _missing(fresh) == 0


async def test_any_room_may_store_events(alone: JobCaller, fresh: Database) -> None:
    stream = await alone.watch()
    async with fresh.acquire() as connection:
        await event_log.record(connection, alone.tenant, "mood:2", kind="model.loaded", data=Raw(b'{"replicas": 1}'))
    (event,) = await take(stream, 1)
    assert (event.type, event.subject, event.data) == ("model.loaded", "mood:2", {"replicas": 1})
    assert event.source == "/api/v1/models"


async def test_retention_drops_positions_with_their_events_and_numbering_continues(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await alone.submit_and_claim()
    (first,) = await take(alone.events(after="0-0-0"), 1)
    await alone.complete(await alone.submit_and_claim())
    await fresh_clock.advance(timedelta(days=4))
    async with fresh.acquire() as connection:
        await partitions.make_room(connection)
        assert await retention.drop_old(connection, timedelta(days=1)) >= 1
    assert await query(fresh, "SELECT 1 FROM event") == []
    assert await query(fresh, "SELECT 1 FROM event_position") == []
    ((floor,),) = await query(fresh, "SELECT position FROM event_floor")
    assert floor == 5
    resumed = await alone.watch(after=first.id)
    made = await alone.submit()
    reset, event = await take(resumed, 2)
    assert (reset.type, reset.data) == ("reset", {"reason": "expired", "after": first.id})
    assert (event.subject, event.position.number) == (made.id, floor + 1)


async def test_retention_leaves_open_streams_alone_that_have_seen_everything(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    stream = await alone.watch()
    await alone.submit()
    await take(stream, 1)
    await fresh_clock.advance(timedelta(days=4))
    async with fresh.acquire() as connection:
        await partitions.make_room(connection)
        await retention.drop_old(connection, timedelta(days=1))
    made = await alone.submit()
    (event,) = await take(stream, 1)
    assert event.subject == made.id


async def _number(database: Database) -> bool:
    async with database.acquire() as connection:
        return await event_log.position_events(connection)


@asynccontextmanager
async def _numbering(database: Database, *, processes: int) -> AsyncIterator[None]:
    """Keep numbering events, in several connections at once."""
    stopping = asyncio.Event()

    async def number() -> None:
        async with _own_connection(database) as connection:
            while not stopping.is_set():
                await event_log.position_events(connection)

    running = [asyncio.create_task(number()) for _ in range(processes)]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*running)


@asynccontextmanager
async def _own_connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect()
    try:
        yield connection
    finally:
        connection.terminate()


async def _fail(database: Database) -> None:
    """Execute a statement that draws an event id and fails."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        await execute(
            database,
            "WITH e AS (INSERT INTO event (tenant_id, at, kind, subject) VALUES (1, clock(), 'test.failed', 's')"
            " RETURNING id) SELECT 1 / (id - id) FROM e",
        )


async def _missing(database: Database) -> int:
    ((missing,),) = await query(
        database, "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int FROM event_pass, unnest(missing) AS m(r)"
    )
    return int(missing)


async def _cut_pass(database: Database) -> None:
    """Cut the connection of a pass that is under way."""
    sql = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    while not await query(database, sql):
        await asyncio.sleep(0)


async def _until_numbered(database: Database) -> None:
    """Number events as soon as a pass that was cut off has released its lock."""
    while not await _number(database):
        await asyncio.sleep(0)


async def _assert_dense(database: Database) -> None:
    """Check that every event has one position and that each tenant's positions are 1, 2, 3, …"""
    assert (
        await query(
            database,
            "SELECT e.id, count(p.position) FROM event e LEFT JOIN event_position p"
            " ON p.event_id = e.id AND p.at = e.at GROUP BY e.id HAVING count(p.position) <> 1",
        )
        == []
    )
    assert (
        await query(
            database,
            "SELECT tenant_id FROM event_position"
            " GROUP BY tenant_id HAVING count(*) <> max(position) OR count(DISTINCT position) <> count(*)",
        )
        == []
    )


async def _pages_of_a_pass(database: Database) -> int:
    async with database.acquire() as connection:
        plan = await connection.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT position_events(10, interval '0')"
        )
    (top,) = json.loads(bytes(plan))
    return int(top["Plan"]["Shared Hit Blocks"]) + int(top["Plan"]["Shared Read Blocks"])
