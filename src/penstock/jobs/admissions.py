"""Admit blocked jobs to the places of their concurrency keys.

A job with a key holds a place while it is ready or runs. Jobs for which there is no place are blocked. Whatever adds a
blocked job or frees a place commits first and then requests an admission, in a transaction of its own. So admissions
see all that they are for, take their locks alone, and never make a submit or the end of an attempt wait. A process
that is killed before its admission leaves it to the housekeeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.jobs.announcements import READY, keys_of
from penstock.jobs.claims import ClaimQueue
from penstock.jobs.sql import keys as statements
from penstock.jobs.sql.keys import Admitted
from penstock.jobs.sql.rows import Connection, LimitedKey, TenantQueue
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
    moved = 0
    async for found in _admitted(connection, keys):
        moved += sum(one.admitted + one.displaced for one in found)
        ready = {one.queue: one.admitted for one in found if one.admitted}
        if ready and wakeups is not None:
            wakeups.announce(READY, keys_of(ready))
    return moved


async def _admitted(connection: Connection, keys: Sequence[LimitedKey]) -> AsyncIterator[Sequence[Admitted]]:
    wanted = list(dict.fromkeys(keys))
    for first in range(0, len(wanted), _MAX_KEYS):
        yield await statements.admit(connection, wanted[first : first + _MAX_KEYS], at_most=_MAX_JOBS)


class Admissions:
    """The admissions of one process, in the background: while one transaction runs, the keys for the next gather.

    An admitted job is offered to waiting claims of this process, because the worker that has just ended the job before
    it often waits for the next one. It is announced to other processes only if none of these takes it: otherwise one
    claim in every process would try to get it.
    """

    def __init__(self, database: Database, wakeups: Wakeups, claims: ClaimQueue) -> None:
        self._database = database
        self._wakeups = wakeups
        self._claims = claims
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

    def _announce(self, queue: TenantQueue, count: int) -> None:
        """Announce jobs that no claim of this process took to the other processes."""
        self._wakeups.announce(READY, keys_of({queue: count}), here=False)

    async def _run(self) -> None:
        try:
            while self._keys:
                keys, self._keys = list(self._keys), {}
                async with self._database.acquire() as connection:
                    async for found in _admitted(connection, keys):
                        for one in found:
                            if one.admitted:
                                self._claims.offer(one.queue, one.admitted, partial(self._announce, one.queue))
        except DatabaseUnavailable:
            self._keys.clear()  # the housekeeper admits them
        except Exception:  # the housekeeper admits them, too: whatever requested this has succeeded and does not wait
            self._keys.clear()
            log.exception("admission_failed")
        finally:
            self._running = None
