"""The housekeeper's duties for usage: deltas are rolled up, and old detail is dropped."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.postgres import partitions
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.usage.sql import rollup

REPLAY_LIMIT: Final = timedelta(days=90)  # spool files older than this are not replayed
_CHUNK: Final = 10_000  # deltas moved by one statement


class UsageRollUp(Periodic):
    """Rolls deltas up, once a second while there are any. Any number of processes may run it."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            moved = await rollup.roll_up(connection, limit=_CHUNK)
        if moved:
            self.wake()  # live calls send no wake-up, and more of them are likely
        return moved == _CHUNK


class UsageRetention(Periodic):
    """Creates day partitions of the detail ahead of time and drops those older than ``keep``, once an hour.

    Sums by keys and users are kept for ``keep_users``, so that they do not grow with every end user that ever was.
    """

    def __init__(
        self,
        database: Database,
        keep: timedelta,
        *,
        keep_users: timedelta = timedelta(days=800),
        interval: timedelta = timedelta(hours=1),
    ) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._keep = keep
        self._keep_users = max(keep_users, keep, REPLAY_LIMIT)

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await partitions.make_room(connection, ["usage_detail"])
            before = await partitions.today(connection) - self._keep
            await partitions.drop_before(connection, "usage_detail", before)
            await rollup.drop_from_default(connection, before=before)
            await rollup.forget_sources(connection, after=REPLAY_LIMIT + timedelta(days=10))
            return await rollup.drop_old_of_submitters(connection, self._keep_users, limit=_CHUNK)
