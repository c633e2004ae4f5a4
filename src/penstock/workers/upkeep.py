"""Keeps reads cheap: rolls up counter deltas, moves the lanes' hints, makes and drops partitions."""

from __future__ import annotations

import time
from datetime import timedelta

from penstock.jobs.sql import duties, retention
from penstock.postgres.pool import Database
from penstock.workers.periodic import Periodic


class Counters(Periodic):
    """Rolls counter deltas up into totals, once a second."""

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await duties.roll_up(connection)
        return False


class Hints(Periodic):
    """Moves each lane's hint to its first row, once a second while jobs become ready.

    Finding that row walks over dead ones. Where that is slow it is done less often: it takes a twentieth of the time.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval)
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
            if self._quiet < 5:  # late commits show up within a few passes; then nothing can change
                async with connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    await duties.raise_hints(connection)
        self._not_before = time.monotonic() + 20 * (time.monotonic() - began)
        return False


class Retention(Periodic):
    """Makes partitions ahead and drops old days, once an hour."""

    def __init__(self, database: Database, keep: timedelta, *, interval: timedelta = timedelta(hours=1)) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._keep = keep

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await retention.make_room(connection)
            await retention.drop_old(connection, self._keep)
        return False
