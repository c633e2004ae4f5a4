"""The housekeeper's duty of numbering events, which works without readers."""

from __future__ import annotations

from datetime import timedelta

from penstock.events import store
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic


class Positions(Periodic):
    """Gives positions to events, once a second while there are new ones.

    Each pass also checks whether missing event ids can be given up, so that readers need not.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            await store.position_events(connection, settle_after=timedelta(0))
        return False
