"""Moves the lanes' hints, from which claims begin to scan."""

from __future__ import annotations

import time
from datetime import timedelta

from penstock.jobs.sql import duties
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Hints(Periodic):
    """Moves each lane's hint to its first row, once a second while jobs become ready.

    Finding that row may scan many dead ones. When that is slow it runs less often, to take at most a twentieth of the
    time.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database
        self._seen: int | None = None
        self._quiet = 0
        self._not_before = 0.0

    async def once(self) -> bool:
        began = time.monotonic()
        if began < self._not_before:
            return False
        async with self._database.acquire() as connection:
            position = await duties.ready_position(connection)
            self._quiet = self._quiet + 1 if position == self._seen else 0
            self._seen = position
            if self._quiet < 5:  # a few more passes find late commits; after that nothing can change
                async with connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    await duties.raise_hints(connection)
                self.wake()
        self._not_before = time.monotonic() + 20 * (time.monotonic() - began)
        return False
