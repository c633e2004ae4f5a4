"""The duty of flows: it delivers timers and events to runs, and cancels jobs that no run waits for any longer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from penstock.flows.sql import duties
from penstock.jobs.admissions import admit
from penstock.jobs.announcements import announce, announce_mail
from penstock.jobs.sql import store
from penstock.jobs.sql.rows import Connection, LimitedKey, Mailed
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.tenants.principal import TenantId

_TIMERS: Final = 500  # per pass, so that a burst of timers does not keep other work from the database
_DOOMED: Final = 500
_EVENTS: Final = 1000  # of one tenant in one pass


class FlowKeeper(Periodic):
    """Runs when the next timer is due, at most ten times a second. Any number of processes may run it at once.

    A wake-up reports new timers, waits and events; a lost one delays them by two seconds at most.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        interval: timedelta = timedelta(milliseconds=100),
        idle_interval: timedelta = timedelta(seconds=2),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._wakeups = wakeups

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            work = await duties.work(connection)
            more = False
            if work.timer_in is not None and work.timer_in <= timedelta(0):
                fired, more = await duties.fire_timers(connection, limit=_TIMERS)
                await self._announce(connection, fired)
            if work.waits:
                matched, more_events = await duties.match_events(connection, limit=_EVENTS)
                await self._announce(connection, matched)
                more |= more_events
            if work.doomed:
                more |= await self._cancel_doomed(connection)
        self.due_in = work.timer_in  # after timers that were due, the next pass reads when the next one is
        return more

    async def _announce(self, connection: Connection, mailed: Mapping[TenantId, Mailed]) -> None:
        if blocked := [key for mail in mailed.values() for key in mail.blocked]:
            await admit(connection, self._wakeups, blocked)
        for tenant, mail in mailed.items():
            announce_mail(self._wakeups, tenant, mail)

    async def _cancel_doomed(self, connection: Connection) -> bool:
        """Cancel some of the jobs that are marked; return whether there may be more."""
        cancelled: list[tuple[TenantId, dict[UUID, Status], Mailed]] = []
        freed: list[LimitedKey] = []
        async with connection.transaction():
            doomed = await duties.take_doomed(connection, limit=_DOOMED)
            for tenant, job_ids in sorted(doomed.items()):
                found, keys, mailed = await store.cancel(connection, tenant, sorted(job_ids))
                freed += [*keys, *mailed.blocked]
                cancelled.append((tenant, found, mailed))
                missed = [job_id for job_id in job_ids if job_id not in found]
                known = await store.find_finished(connection, tenant, missed) if missed else {}
                if again := [job_id for job_id, (_, status) in known.items() if status is None]:
                    await duties.doom(connection, tenant, again)  # a claim is taking them at the moment
        if freed:
            await admit(connection, self._wakeups, freed)
        for tenant, found, mailed in cancelled:
            announce(
                self._wakeups,
                finished=[job_id for job_id, status in found.items() if status is Status.CANCELLED],
                cancelled=Status.RUNNING in found.values(),
            )
            announce_mail(self._wakeups, tenant, mailed)
        return sum(map(len, doomed.values())) == _DOOMED
