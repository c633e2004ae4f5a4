"""The housekeeper's duties for collections: deleting removed ones, and keeping indexes of large ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import asyncpg

from penstock.collections import store
from penstock.collections.service import TOPIC
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs

log = logs.get(__name__)

MIN_ITEMS: Final = 10_000  # from which on a collection gets an index
_MAX_INDEXES: Final = 64  # every write checks all of them
_CHUNK: Final = 5000
_LONGEST: Final = timedelta(hours=12)  # for which a statement that changes an index may run
_LOCK: Final = 0x70656E5F68_6E7377  # "pen_hnsw": one process at a time changes indexes


class CollectionUpkeep(Periodic):
    """Deletes removed collections, and what is stored of the writes of old jobs. Any number of processes may run it."""

    def __init__(
        self, database: Database, wakeups: Wakeups, *, keep: timedelta, interval: timedelta = timedelta(seconds=1)
    ) -> None:
        super().__init__(interval=interval, idle_interval=timedelta(minutes=1))
        self._database = database
        self._keep = keep
        wakeups.subscribe(TOPIC, lambda _keys: self.wake())

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            removed = await store.delete_removed(connection, limit=_CHUNK)
            forgotten = await store.forget_writes(connection, keep=self._keep, limit=_CHUNK)
        return removed or forgotten == _CHUNK


class CollectionIndexes(Periodic):
    """Gives large collections an HNSW index where pgvector is installed, and removes indexes that are not used.

    Indexes are built concurrently, while writes and searches continue. A build that was interrupted is invisible to
    searches, and removed by the next pass. A build may take hours, so it has a connection outside the pool, and a limit
    of time of its own.
    """

    def __init__(
        self,
        database: Database,
        *,
        min_items: int = MIN_ITEMS,
        longest: timedelta = _LONGEST,
        interval: timedelta = timedelta(seconds=30),
    ) -> None:
        super().__init__(interval=interval)
        self._longest = longest.total_seconds()
        self._database = database
        self._min_items = min_items
        self._working: asyncio.Task[bool] | None = None

    async def once(self) -> bool:
        self._working = asyncio.create_task(self._advance())
        await asyncio.wait([self._working])
        return not self._working.cancelled() and self._working.result()

    async def stop(self) -> None:
        """Stop; a build in progress is cancelled."""
        if self._working is not None:
            self._working.cancel()
        await super().stop()

    async def _advance(self) -> bool:
        """Execute the next statement; returns whether there was one."""
        async with self._database.acquire() as connection:
            await store.enable_vector(connection)
            if await self._work(connection) is None:
                return False
        async with self._database.dedicated() as connection:
            if not await store.lock_indexing(connection, _LOCK):  # until the connection is closed
                return False
            work = await self._work(connection)
            if work is not None:
                log.info("collection_index_changing", statement=work)
                await connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '256MB'")
                await connection.execute(work, timeout=self._longest)
            return work is not None

    async def _work(self, connection: asyncpg.Connection) -> str | None:
        return await store.index_work(connection, min_items=self._min_items, max_indexes=_MAX_INDEXES)
