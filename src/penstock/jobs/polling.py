"""Polls for ready jobs, for all claims of this process that wait: one statement, however many claims there are."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.jobs.claims import ClaimQueue, FullScans
from penstock.jobs.sql import store
from penstock.postgres.pool import Database
from penstock.telemetry import logs

log = logs.get(__name__)

POLL_INTERVAL: Final = timedelta(seconds=2)
_SCAN: Final = "poll"


class ReadyPolls:
    """Wakes waiting claims of queues that have ready jobs, because a wake-up may be lost.

    It polls only while a claim waits. If a poll fails, all claims are woken, so that their callers get the error.
    """

    def __init__(self, database: Database, claims: ClaimQueue) -> None:
        self.interval = POLL_INTERVAL
        self._database = database
        self._claims = claims
        self._scans = FullScans()
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    def begin(self) -> None:
        """Poll as long as claims wait: a claim is about to do so. Once stopped, polling does not begin again."""
        if self._polling is None and not self._stopped:
            self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop polling for good: a claim that still waits would otherwise start a task that nothing stops."""
        self._stopped = True
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait([polling])

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self.interval.total_seconds())
            waiting = self._claims.task_types()
            if waiting is None:
                self._polling = None
                return
            try:
                await self._once(waiting)
            except DatabaseUnavailable:
                self._claims.wake(None)
            except Exception:  # the loop outlives an unforeseen error; claims find the jobs, or the error
                log.exception("ready_jobs_not_polled")
                self._claims.wake(None)

    async def _once(self, task_types: frozenset[str]) -> None:
        from_start = self._scans.due(_SCAN)
        began = time.monotonic()
        async with self._database.acquire() as connection:
            found = await store.ready_queues(connection, sorted(task_types), from_start=from_start)
        if from_start:
            self._scans.took(_SCAN, time.monotonic() - began)
        self._claims.wake_for(found)
