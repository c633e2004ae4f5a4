"""The housekeeper's duty that creates partitions of records ahead of time, and drops what is old."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import asyncpg

from penstock.apps import catalogue, records
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs

log = logs.get(__name__)

_CHUNK: Final = 10_000
_AHEAD: Final = 7  # days for which partitions exist in advance
_ABSENT: Final = timedelta(days=30)  # after which an app that no worker has is forgotten


class AppRetention(Periodic):
    """Keeps records of requests for ``keep``, and sums by user for ``keep_users``; runs once an hour."""

    def __init__(
        self,
        database: Database,
        *,
        keep: timedelta,
        keep_users: timedelta,
        interval: timedelta = timedelta(hours=1),
    ) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._keep = keep
        self._keep_users = keep_users

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            today = await records.today(connection)
            for ahead in range(-1, _AHEAD + 1):
                day = today + timedelta(days=ahead)
                if not await records.ensure_day(connection, day):
                    log.warning("app_partition_left_in_default", day=day.isoformat())
            before = today - self._keep
            for name in await records.old_days(connection, before=before):
                try:
                    await _drop(connection, name)
                except asyncpg.LockNotAvailableError:
                    log.info("app_retention_postponed", partition=name)
                    break
            await catalogue.forget_old(connection, _ABSENT)
            dropped = [
                await records.drop_from_default(connection, before=before, limit=_CHUNK),
                await records.drop_sums(connection, keep=self._keep_users, limit=_CHUNK),
            ]
        return _CHUNK in dropped


async def _drop(connection: asyncpg.Connection, name: str) -> None:
    """Drop a partition, which briefly locks the whole table. Raises LockNotAvailableError."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '400ms'")
        await connection.execute(f'DROP TABLE "{name}"')  # a name that ``old_days`` has returned
