"""Tables with a partition for each day: partitions are created ahead of time, and dropped as a whole when they are old.

The days are those of UTC. A partition's name is that of its table and the day, such as ``job_20260131``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import asyncpg

from penstock.postgres import queries
from penstock.telemetry import logs

log = logs.get(__name__)

_AHEAD: Final = 7  # days for which partitions exist in advance
# Shorter than the server's deadlock_timeout, so that no caller's statement is cancelled instead.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '400ms'"

_sql = queries.load(__file__, "partitions.sql")


async def today(connection: asyncpg.Connection) -> date:
    """Return the current day by the database clock."""
    day: date = await _sql.today.value(connection)
    return day


async def make_room(connection: asyncpg.Connection, tables: Sequence[str] | None = None) -> None:
    """Create the partitions of tables from yesterday to a week ahead; without ``tables``, those of jobs.

    A day whose locks are taken is tried again next time.
    """
    first = await today(connection) - timedelta(days=1)
    for day in (first + timedelta(days=number) for number in range(_AHEAD + 2)):
        try:
            async with connection.transaction():
                await connection.execute(_LOCK_TIMEOUT)
                if not await _sql.ensure_day.value(connection, day=day, tables=tables):
                    log.warning("partition_left_in_default", tables=tables, day=day.isoformat())
        except asyncpg.LockNotAvailableError:
            log.info("partition_postponed", tables=tables, day=day.isoformat())


async def drop_before(connection: asyncpg.Connection, table: str, day: date) -> None:
    """Drop the partitions of the days before one. Those whose locks are taken are dropped next time."""
    for row in await _sql.before.rows(connection, table=table, day=day):
        try:
            async with connection.transaction():
                await connection.execute(_LOCK_TIMEOUT)  # dropping a partition briefly locks the whole table
                await connection.execute(f'DROP TABLE "{row["name"]}"')
        except asyncpg.LockNotAvailableError:
            log.info("retention_postponed", partition=row["name"])
            break
