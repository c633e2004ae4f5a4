"""The housekeeper's duty for quotas."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.quotas import store

_CHUNK: Final = 500


class QuotaExpiry(Periodic):
    """Ends the slices of processes that have died, and removes rows that are no longer needed: old windows that are not
    in use, and finished jobs that quotas of pending jobs have counted."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=10)) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._swept = store.CountedJob()  # the last row that was checked

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            expired = await store.expire(connection, limit=_CHUNK)
            forgotten = await store.forget(connection, limit=_CHUNK)
            self._swept = await store.sweep_jobs(connection, self._swept, limit=_CHUNK) or store.CountedJob()
        return _CHUNK in {expired, forgotten}
