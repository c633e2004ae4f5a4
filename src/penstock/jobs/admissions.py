"""Admit blocked jobs to the places of their concurrency keys.

A job with a key holds a place while it is ready or runs. Jobs for which there is no place are blocked. Whatever adds a
blocked job or frees a place commits first and then requests an admission, in a transaction of its own. So admissions
see all that they are for, take their locks alone, and never make a submit or the end of an attempt wait. A process
that is killed before its admission leaves it to the housekeeper.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.jobs.announcements import announce
from penstock.jobs.sql import keys as statements
from penstock.jobs.sql.store import Connection, LimitedKey
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_KEYS: Final = 200  # of one transaction
_MAX_JOBS: Final = 1000  # of one key in one transaction


async def admit(connection: Connection, wakeups: Wakeups | None, keys: Sequence[LimitedKey]) -> int:
    """Admit jobs of these keys, and wake workers for them; return how many jobs were moved, to ready or from it.

    The current transaction must not have done anything.
    """
    wanted = list(dict.fromkeys(keys))
    moved = 0
    for first in range(0, len(wanted), _MAX_KEYS):
        found = await statements.admit(connection, wanted[first : first + _MAX_KEYS], at_most=_MAX_JOBS)
        moved += sum(one.admitted + one.displaced for one in found)
        ready = Counter({one.queue: one.admitted for one in found if one.admitted})
        if ready and wakeups is not None:
            announce(wakeups, ready=ready)
    return moved


class Admissions:
    """The admissions of one process, in the background: while one transaction runs, the keys for the next gather."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._keys: dict[LimitedKey, None] = {}
        self._running: asyncio.Task[None] | None = None

    def request(self, keys: Sequence[LimitedKey]) -> None:
        """Admit jobs of these keys soon. What added a blocked job or freed a place must have committed."""
        if not keys:
            return
        self._keys.update(dict.fromkeys(keys))
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def drain(self) -> None:
        """Wait until no admission is left to do."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            while self._keys:
                keys, self._keys = list(self._keys), {}
                async with self._database.acquire() as connection:
                    await admit(connection, self._wakeups, keys)
        except DatabaseUnavailable:
            self._keys.clear()  # the housekeeper admits them
        except Exception:  # the housekeeper admits them, too: whatever requested this has succeeded and does not wait
            self._keys.clear()
            log.exception("admission_failed")
        finally:
            self._running = None
