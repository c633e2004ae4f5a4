"""Retention of finished jobs: whole days are dropped as partitions, after the rows that must stay are moved out."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import asyncpg

from penstock.events import store as event_log
from penstock.jobs.sql.rows import Connection
from penstock.postgres import queries
from penstock.telemetry import logs

log = logs.get(__name__)

_AHEAD = 7  # days for which partitions exist in advance
_CHUNK = 1000

_sql = queries.load(__file__, "retention.sql")


async def make_room(connection: Connection) -> None:
    """Create the partitions from yesterday to a week ahead. A day whose locks are taken is tried again next time."""
    today: date = await _sql.today.value(connection)
    for ahead in range(-1, _AHEAD + 1):
        day = today + timedelta(days=ahead)
        try:
            async with connection.transaction():
                # Shorter than the server's deadlock_timeout, so that no caller's statement is cancelled instead.
                await connection.execute("SET LOCAL lock_timeout = '400ms'")
                if not await _sql.ensure_day.value(connection, day=day):
                    log.warning("partition_left_in_default", day=day.isoformat())
        except asyncpg.LockNotAvailableError:
            log.info("partition_postponed", day=day.isoformat())


async def drop_old(connection: Connection, keep: timedelta) -> int:
    """Drop every day whose jobs were all submitted more than ``keep`` ago; return how many days.

    Unfinished jobs, and those that finished less than ``keep`` ago, stay. Idempotency keys are removed with their jobs.
    """
    today: date = await _sql.today.value(connection)
    cutoff = datetime.combine(today, time(), UTC) - keep
    dropped = 0
    for row in await _sql.days.rows(connection):
        day: date = row["day"]
        if datetime.combine(day + timedelta(days=1), time(), UTC) > cutoff:
            break
        try:
            kept = await _sql.drop_day.value(connection, day=day, cutoff=cutoff)
        except asyncpg.LockNotAvailableError:
            log.info("retention_postponed", day=day.isoformat())
            break
        dropped += 1
        log.info("day_dropped", day=day.isoformat(), kept_jobs=kept)
    while await _sql.drop_from_default.value(connection, cutoff=cutoff, limit=_CHUNK):
        pass
    await event_log.position_events(connection)
    await _sql.drop_stray_events.run(connection, cutoff=cutoff)
    while await _sql.drop_keys.value(connection, below=cutoff, limit=_CHUNK):
        pass
    return dropped
