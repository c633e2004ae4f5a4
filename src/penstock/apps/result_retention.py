"""The housekeeper's duty that removes results which their apps keep no longer."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.apps import records
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic

_CHUNK: Final = 500


class AppResultRetention(Periodic):
    """Removes results that are due, once a minute. Any number of processes may run it at once."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(minutes=1)) -> None:
        super().__init__(interval=interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            return await records.drop_results(connection, limit=_CHUNK) == _CHUNK
