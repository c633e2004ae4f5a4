"""The housekeeper's duty for quotas."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.quotas import store

_CHUNK: Final = 500


class QuotaExpiry(Periodic):
    """Ends the slices of processes that have died, and removes windows that nothing has touched for long."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=10)) -> None:
        super().__init__(interval=interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            expired = await store.expire(connection, limit=_CHUNK)
            forgotten = await store.forget(connection, limit=_CHUNK)
        return _CHUNK in {expired, forgotten}
