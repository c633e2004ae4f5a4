"""Rolls up counter deltas, so that no read counts rows."""

from __future__ import annotations

from datetime import timedelta

from penstock.jobs.sql import duties
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Counters(Periodic):
    """Rolls counter deltas up into totals, once a second while there are any."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await duties.roll_up(connection)
        return False
