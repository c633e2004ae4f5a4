"""The housekeeper's duty that ends requests which have taken longer than their app allows."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.apps import catalogue, records
from penstock.jobs.admissions import admit
from penstock.jobs.announcements import announce_mail
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic

_CHUNK: Final = 500  # requests of each app


class AppTimeouts(Periodic):
    """Lets late requests fail with `timeout`: their code gets a cancellation, and may compensate what it has done.

    It polls: a request ends a few seconds late at most. Any number of processes may run it at once.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        interval: timedelta = timedelta(seconds=2),
        idle_interval: timedelta = timedelta(seconds=10),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._soon = interval
        self._wakeups = wakeups

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            apps = await catalogue.every(connection)
            limits = {app.name: app.manifest.timeout for app in apps if app.manifest is not None}
            timed = {name: limit for name, limit in limits.items() if limit is not None}
            if not timed:
                return False
            self.due_in = self._soon
            mailed, more = await records.time_out(connection, timed, limit=_CHUNK)
            if blocked := [key for mail in mailed.values() for key in mail.blocked]:
                await admit(connection, self._wakeups, blocked)
        for tenant, mail in mailed.items():
            announce_mail(self._wakeups, tenant, mail)
        return more
