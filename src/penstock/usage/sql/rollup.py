"""Roll-up and retention of all tenants' usage: the typed functions of ``rollup.sql``."""

from __future__ import annotations

from datetime import date, timedelta

import asyncpg

from penstock.postgres import queries

Connection = asyncpg.Connection

_sql = queries.load(__file__, "rollup.sql")


async def roll_up(connection: Connection, *, limit: int = 10_000) -> int:
    """Move at most ``limit`` deltas into the roll-ups in one transaction.

    Return how many were moved; none are while another process rolls up.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")  # the deltas are still there if it is lost
        if not await _sql.take_turn.value(connection):
            return 0
        moved: int = await _sql.roll_up.value(connection, limit=limit)
    return moved


async def today(connection: Connection) -> date:
    """Return the current day in UTC."""
    day: date = await _sql.today.value(connection)
    return day


async def ensure_day(connection: Connection, day: date) -> bool:
    """Create a day's partition of the detail if it is missing; return False if the default partition has its rows."""
    made: bool = await _sql.ensure_day.value(connection, day=day)
    return made


async def old_days(connection: Connection, *, before: date) -> list[str]:
    """Return the names of the partitions of days before this one."""
    return [row["name"] for row in await _sql.old_days.rows(connection, before=before)]


async def drop_partition(connection: Connection, name: str) -> None:
    """Drop a partition of the detail, which briefly locks the whole table. Raises LockNotAvailableError."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '400ms'")
        await connection.execute(f'DROP TABLE "{name}"')  # a name that ``old_days`` has returned


async def drop_from_default(connection: Connection, *, before: date) -> None:
    """Remove old rows from the default partition of the detail."""
    await _sql.drop_from_default.run(connection, before=before)


async def drop_old_of_submitters(connection: Connection, keep: timedelta, *, limit: int) -> bool:
    """Remove old sums by keys and users, and then the dimensions without sums, a limited number of each in one
    transaction; return whether there are more."""
    async with connection.transaction():
        if not await _sql.take_turn.value(connection):  # a roll-up may just be using them
            return False
        sums: int = await _sql.drop_old_of_submitters.value(connection, days=keep.days, limit=limit)
        dims: int = 0
        if sums < limit:
            dims = await _sql.drop_unused_dims.value(connection, days=keep.days, limit=limit)
    return limit in {sums, dims}


async def forget_sources(connection: Connection, *, after: timedelta) -> None:
    """Forget processes that have flushed nothing for this time."""
    await _sql.forget_sources.run(connection, days=after.days)
