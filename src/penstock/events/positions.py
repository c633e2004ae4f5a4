"""The housekeeper's share of numbering events: it goes on without readers, and gives up ids that never come."""

from __future__ import annotations

from datetime import timedelta

from penstock.events import store
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Positions(Periodic):
    """Gives positions to events, once a second while there are any, and settles which missing ids will never be
    committed.

    A failed statement leaves an event id that stays missing, and a pass looks for every missing id. Such an id is
    given up once every transaction that may have drawn it has ended. The highest id drawn so far is read first, then
    the transactions that hold the lock of a writer of events. A transaction that drew one of these ids held the lock
    before: either it is among those, and is waited for in later passes, or it has ended and the next pass sees what it
    committed.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database
        self._highest = 0
        self._writers: set[str] = set()  # of the transactions that may have drawn ids up to that, those still open

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
