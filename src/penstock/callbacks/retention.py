"""The housekeeper's duty that ends old deliveries, and deletes ended ones and removed endpoints."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import asyncpg

from penstock.callbacks import upkeep
from penstock.callbacks.rules import MAX_AGE
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic

_CHUNK: Final = 2000
_ENDPOINTS: Final = 100


class CallbackRetention(Periodic):
    """Ends deliveries that have waited too long, and deletes old ones and removed endpoints, every ten minutes.

    Dead deliveries are kept as long as jobs. Any number of processes may run it at once.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep_delivered: timedelta,
        keep_jobs: timedelta,
        interval: timedelta = timedelta(minutes=10),
    ) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._keep_delivered = keep_delivered
        self._keep_jobs = keep_jobs

    async def once(self) -> bool:
        keep = self._keep_jobs
        async with self._database.acquire() as connection:
            numbers = [
                await upkeep.give_up(connection, max_age=MAX_AGE, limit=_CHUNK),
                await upkeep.drop_ended(connection, status="delivered", keep=self._keep_delivered, limit=_CHUNK),
                await upkeep.drop_ended(connection, status="dead", keep=keep, limit=_CHUNK),
                await upkeep.drop_jobs(connection, keep=keep, limit=_CHUNK),
                await upkeep.drop_unused(connection, keep=keep, limit=_CHUNK),
            ]
            more = await self._drop_removed(connection)
        return more or any(number >= _CHUNK for number in numbers)

    async def _drop_removed(self, connection: asyncpg.Connection) -> bool:
        """Delete endpoints that were removed, their deliveries first; returns whether there are more."""
        removed = await upkeep.removed(connection, limit=_ENDPOINTS)
        more = len(removed) == _ENDPOINTS
        for endpoint in removed:
            if await upkeep.drop_deliveries(connection, endpoint, limit=_CHUNK):
                more = True
            else:
                await upkeep.drop_endpoint(connection, endpoint)
        return more
