"""Reports the state of this worker's providers to the database, for the status page."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.providers import store
from penstock.providers.reports import ProviderReport
from penstock.providers.servers import Servers

_REPEAT_SECONDS: Final = 10.0  # after which an unchanged state is reported again


class Reporter(Periodic):
    """Writes what has changed, once a second at most; a worker that calls no providers writes nothing."""

    def __init__(self, database: Database, servers: Servers, worker_id: str) -> None:
        super().__init__(interval=timedelta(seconds=1))
        self._database = database
        self._servers = servers
        self._worker_id = worker_id
        self._reported: dict[str, ProviderReport] = {}
        self._reported_at = 0.0

    async def once(self) -> bool:
        reports = self._servers.reports()
        if not reports or (reports == self._reported and time.monotonic() - self._reported_at < _REPEAT_SECONDS):
            return False
        async with self._database.acquire() as connection:
            await store.put_reports(connection, self._worker_id, reports)
        self._reported, self._reported_at = reports, time.monotonic()
        return False

    async def withdraw(self) -> None:
        """Remove this worker's reports, because it stops."""
        if self._reported:
            async with self._database.acquire() as connection:
                await store.drop_reports(connection, self._worker_id)
