"""Fails jobs that no worker took in time."""

from __future__ import annotations

from datetime import timedelta

from penstock.jobs.admissions import admit
from penstock.jobs.announcements import announce, announce_mail
from penstock.jobs.sql import queues
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic

_CHUNK = 1000


class Expirer(Periodic):
    """Runs when the next job expires, at most once a second. Any number of processes may run it at once.

    A wake-up reports new jobs that have an expiry; a lost wake-up delays their expiry by five seconds at most.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        interval: timedelta = timedelta(seconds=1),
        idle_interval: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._wakeups = wakeups

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            expired = await queues.expire(connection, limit=_CHUNK)
            blocked = [key for mail in expired.mailed.values() for key in mail.blocked]
            await admit(connection, self._wakeups, [*expired.freed, *blocked])
            self.due_in = await queues.next_expiry(connection)
        if expired.jobs:
            announce(self._wakeups, finished=expired.jobs)
        for tenant, mail in expired.mailed.items():
            announce_mail(self._wakeups, tenant, mail)
        return expired.more
