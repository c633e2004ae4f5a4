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
    if not await _sql.any_delta.value(connection):
        return 0
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")  # the deltas are still there if it is lost
        if not await _sql.take_turn.value(connection):
            return 0
        moved: int = await _sql.roll_up.value(connection, limit=limit)
    return moved


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
