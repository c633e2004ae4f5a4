"""Creates partitions ahead of time and drops old ones."""

from __future__ import annotations

from datetime import timedelta

from penstock.jobs.sql import queues, retention
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Retention(Periodic):
    """Creates partitions ahead of time and drops old days, once an hour."""

    def __init__(self, database: Database, keep: timedelta, *, interval: timedelta = timedelta(hours=1)) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._keep = keep

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await partitions.make_room(connection)
            await retention.drop_old(connection, self._keep)
            await queues.forget_served(connection, self._keep)
        return False
