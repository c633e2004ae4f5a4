"""The housekeeper's duty of numbering events: it works without readers, and gives up ids that are never committed."""

from __future__ import annotations

from datetime import timedelta

from penstock.events import store
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Positions(Periodic):
    """Gives positions to events, once a second while there are new ones, and decides which missing ids will never be
    committed.

    A failed statement leaves an event id that stays missing, and each pass searches for every missing id. Such an id is
    given up once every transaction that may have drawn it has ended. The duty first reads the highest id drawn so far,
    then the transactions that hold the lock of a writer of events. A transaction takes this lock before it draws an id.
    So one that drew one of these ids either still holds the lock, and later passes wait for it, or it has ended, and
    the next pass sees what it committed.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database
        self._highest = 0
        self._writers: set[str] = set()  # the open transactions that may have drawn ids up to that one

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            settled = 0
            if self._writers:
                self._writers &= await store.writers(connection)
            if not self._writers:
                settled = self._highest
                highest = await store.highest_id(connection)
                self._writers = await store.writers(connection)
                self._highest = highest  # only now: a pass that breaks off must not settle ids that may still come
            await store.position_events(connection, settled=settled)
        return False
