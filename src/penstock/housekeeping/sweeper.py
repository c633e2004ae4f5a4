"""Removes expired blobs, unfinished uploads, and reports of workers that no longer exist."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.blobs import store
from penstock.blobs.service import drop_parts
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.providers import store as reports

_CHUNK: Final = 100  # blobs removed in one pass
_SILENT: Final = timedelta(hours=1)


class Sweeper(Periodic):
    """Runs every ten minutes. Any number of processes may do so at once."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(minutes=10)) -> None:
        super().__init__(interval=interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            expired = await store.expire(connection, limit=_CHUNK)
            abandoned = await store.abandoned(connection, limit=_CHUNK)
            await reports.sweep_reports(connection, older=_SILENT)
        for tenant, blob_id in dict.fromkeys([*expired, *abandoned]):
            await drop_parts(self._database, tenant, blob_id)
        return _CHUNK in {len(expired), len(abandoned)}
