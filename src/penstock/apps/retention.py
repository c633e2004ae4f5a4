"""The housekeeper's duty that creates partitions of records ahead of time, and drops what is old."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.apps import catalogue, records
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic

_CHUNK: Final = 10_000
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
            await partitions.make_room(connection, ["app_request"])
            before = await partitions.today(connection) - self._keep
            await partitions.drop_before(connection, "app_request", before)
            await catalogue.forget_old(connection, _ABSENT)
            dropped = [
                await records.drop_from_default(connection, before=before, limit=_CHUNK),
                await records.drop_sums(connection, keep=self._keep_users, limit=_CHUNK),
            ]
        return _CHUNK in dropped
