"""Places that ended jobs leave under a limit of running jobs, and the claims that take them.

Waking a claim in every process for each place would cost far more than the claim that gets it: the claims of one
tenant with limits run one after the other, and all but one find nothing. So a place is offered to waiting claims of
this process first, and announced to the other processes only if these do not take it. At intervals, a place is
announced to the others before it is offered here, so that jobs which only other processes serve have their turn.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, TypeVar

from penstock.errors import DatabaseUnavailable
from penstock.jobs.announcements import READY, any_queue, keys_of
from penstock.jobs.claims import ClaimQueue
from penstock.jobs.sql import controls
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.tenants.principal import TenantId

_OTHERS_FIRST_SECONDS: Final = 0.25  # after which a place is announced to the other processes first
_HEAD_START_SECONDS: Final = 0.01  # for the other processes
_SETTLE_SECONDS: Final = 0.05  # for which a claim waits for jobs that are about to end
_REPORT_SECONDS: Final = 0.001  # by which the reports of jobs that have just run are under way

T = TypeVar("T")


class Places:
    """Offers places to the claims of one process, and announces the rest."""

    def __init__(self, database: Database, wakeups: Wakeups, claims: ClaimQueue) -> None:
        self._database = database
        self._wakeups = wakeups
        self._claims = claims
        self._others_first_at: dict[TenantId, float] = {}
        self._limited: set[TenantId] = set()  # tenants that had limits when their jobs last ended here
        self._ending: set[asyncio.Future[Any]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Wait until refused places are announced."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self, tenant: TenantId, ending: asyncio.Future[T]) -> asyncio.Future[T]:
        """Note that jobs of a tenant are about to end; return ``ending``, which is done when they have ended."""
        if tenant in self._limited:
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return ending

    async def settled(self) -> None:
        """Wait, for a moment at most, until those jobs of tenants with limits have ended that are about to.

        A worker claims its next job while it reports the last one. Under a limit, that claim would come too early.
        """
        if self._limited:
            await asyncio.sleep(_REPORT_SECONDS)
            if self._ending:
                await asyncio.wait(list(self._ending), timeout=_SETTLE_SECONDS)

    def forget(self, tenant: TenantId) -> None:
        """Note that a tenant has no limits."""
        self._limited.discard(tenant)
        self._others_first_at.pop(tenant, None)

    def offer(self, tenant: TenantId, count: int) -> None:
        """Pass on ``count`` places that have become free under the limits of a tenant."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._limited.add(tenant)
        if now < self._others_first_at.setdefault(tenant, now + _OTHERS_FIRST_SECONDS):
            self._claims.offer(any_queue(tenant), count, partial(self._refused, tenant))
        else:
            del self._others_first_at[tenant]
            self._announce(tenant, count)
            loop.call_later(_HEAD_START_SECONDS, self._claims.offer, any_queue(tenant), count, _ignore)

    def _refused(self, tenant: TenantId, count: int) -> None:
        """Announce places that no claim of this process took, unless claims of others have taken them."""
        task = asyncio.create_task(self._announce_rest(tenant, count))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce_rest(self, tenant: TenantId, count: int) -> None:
        try:
            async with self._database.acquire() as connection:
                if not await controls.has_room(connection, tenant):
                    return
        except DatabaseUnavailable:
            pass
        self._announce(tenant, count)

    def _announce(self, tenant: TenantId, count: int) -> None:
        """Announce places to the other processes."""
        self._wakeups.announce(READY, keys_of({any_queue(tenant): count}), here=False)


def _ignore(_count: int) -> None:
    """Do nothing about refused places: they have been announced already."""
