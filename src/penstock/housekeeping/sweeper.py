"""Removes expired blobs, the bytes of removed blobs and of unfinished uploads, and reports of workers that no longer
exist."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.blobs import store
from penstock.blobs.service import BlobService
from penstock.errors import BlobStoreUnavailable
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.providers import store as reports
from penstock.telemetry import logs

log = logs.get(__name__)

_CHUNK: Final = 100  # blobs, and objects, removed in one pass
_SILENT: Final = timedelta(hours=1)


class Sweeper(Periodic):
    """Runs every ten minutes. Any number of processes may do so at once."""

    def __init__(self, database: Database, blobs: BlobService, *, interval: timedelta = timedelta(minutes=10)) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._blobs = blobs

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            expired = await store.expire(connection, limit=_CHUNK)
            await store.expire_uploads(connection, limit=_CHUNK)
            due = await store.due(connection, limit=_CHUNK)
            await reports.sweep_reports(connection, older=_SILENT)
        away: set[object] = set()  # stores that could not be used in this pass
        for tenant, place in due:
            if place.store_id not in away:
                try:
                    await self._blobs.clear(tenant, place)
                except BlobStoreUnavailable as error:  # due again in ten minutes
                    away.add(place.store_id)
                    log.warning("blob_not_removed", reason=error.message)
        return _CHUNK in {expired, len(due)}
