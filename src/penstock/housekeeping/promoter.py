"""Moves due jobs from later to ready."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from penstock.jobs.admissions import admit
from penstock.jobs.announcements import announce
from penstock.jobs.sql import duties
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic

_CHUNK = 1000


class Promoter(Periodic):
    """Promotes jobs as they become due. Any number of processes may run it at once.

    It runs when the next job is due, at most four times a second. A wake-up reports newly scheduled jobs; a lost
    wake-up delays a job by two seconds at most.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        interval: timedelta = timedelta(milliseconds=250),
        idle_interval: timedelta = timedelta(seconds=2),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._wakeups = wakeups

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            promoted = await duties.promote(connection, limit=_CHUNK)
            await admit(connection, self._wakeups, promoted.blocked)
        self.due_in = promoted.due_in
        if promoted.ready:
            announce(self._wakeups, ready=Counter(promoted.ready))
        return promoted.jobs == _CHUNK
