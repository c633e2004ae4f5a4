"""Retention of finished jobs: whole days are dropped as partitions, after the rows that must stay are moved out."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import asyncpg

from penstock.events import store as event_log
from penstock.jobs.sql.rows import Connection
from penstock.postgres import partitions, queries
from penstock.telemetry import logs

log = logs.get(__name__)

_CHUNK = 1000

_sql = queries.load(__file__, "retention.sql")


async def drop_old(connection: Connection, keep: timedelta) -> int:
    """Drop every day whose jobs were all submitted more than ``keep`` ago; return how many days.

    Unfinished jobs, and those that finished less than ``keep`` ago, stay. Idempotency keys are removed with their jobs.
    """
    today = await partitions.today(connection)
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
