"""Tells the database how providers stand with this worker, for the status page."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.providers import store
from penstock.providers.reports import ProviderReport
from penstock.providers.servers import Servers

_AGAIN: Final = 10.0  # seconds after which what has not changed is said again


class Reporter(Periodic):
    """Writes what has changed, once a second at most; a worker that asks no providers writes nothing."""

    def __init__(self, database: Database, servers: Servers, worker_id: str) -> None:
        super().__init__(interval=timedelta(seconds=1))
        self._database = database
        self._servers = servers
        self._worker_id = worker_id
        self._told: dict[str, ProviderReport] = {}
        self._told_at = 0.0

    async def once(self) -> bool:
        reports = self._servers.reports()
        if not reports or (reports == self._told and time.monotonic() - self._told_at < _AGAIN):
            return False
        async with self._database.acquire() as connection:
            await store.put_reports(connection, self._worker_id, reports)
        self._told, self._told_at = reports, time.monotonic()
        return False

    async def withdraw(self) -> None:
        """Forget what was told: this worker stops."""
        if self._told:
            async with self._database.acquire() as connection:
                await store.drop_reports(connection, self._worker_id)
