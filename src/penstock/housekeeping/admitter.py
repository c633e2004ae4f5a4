"""Admits blocked jobs and finishes changes of rules if the process that should have done so has died."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from penstock.jobs.admissions import admit
from penstock.jobs.key_rules import arrange
from penstock.jobs.sql import keys
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic

_CHUNK: Final = 500  # keys
_ABANDONED: Final = timedelta(seconds=10)  # the age at which a change counts as abandoned by its process


class Admitter(Periodic):
    """Checks the keys of all blocked jobs, once a second while jobs change. Any number of processes may run it.

    With many keys it runs less often, to take at most a twentieth of the time.
    """

    def __init__(self, database: Database, wakeups: Wakeups, *, interval: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(interval=interval, idle_interval=5 * interval)
        self._database = database
        self._wakeups = wakeups
        self._not_before = 0.0

    async def once(self) -> bool:
        began = time.monotonic()
        if began < self._not_before:
            return False
        async with self._database.acquire() as connection:
            for change in await keys.changes(connection, older=_ABANDONED):
                await arrange(connection, self._wakeups, change)
            found = await keys.blocked_keys(connection, (0, ""), limit=_CHUNK)
            while found:
                await admit(connection, self._wakeups, found)
                found = await keys.blocked_keys(connection, found[-1], limit=_CHUNK) if len(found) == _CHUNK else []
        self._not_before = time.monotonic() + 20 * (time.monotonic() - began)
        return False
