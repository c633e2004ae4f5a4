"""Rescues jobs of dead workers: expired leases, and cancelled jobs whose worker does not stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import groupby

from penstock.failures import Category
from penstock.jobs.admissions import admit
from penstock.jobs.announcements import announce_ended, announce_mail
from penstock.jobs.limits import JobLimits
from penstock.jobs.sql import duties, store
from penstock.jobs.sql.rows import Connection, HeldLease, LimitedKey, Mailed
from penstock.jobs.sql.store import EndedAttempt
from penstock.jobs.work import Failure
from penstock.jobs.writers import judge
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

_CHUNK = 500


class Rescuer(Periodic):
    """Polls for leases to rescue, once a second while any is held and every two seconds otherwise. Any number of
    processes may run it at once.

    After an outage of the database, or of all housekeepers, every lease gets its full length again before it counts
    as expired, because its worker may not have been able to send heartbeats either.
    """

    def __init__(
        self, database: Database, limits: JobLimits, wakeups: Wakeups, *, interval: timedelta = timedelta(seconds=1)
    ) -> None:
        super().__init__(interval=interval, idle_interval=2 * interval)
        self._shortest = interval
        self._database = database
        self._limits = limits
        self._wakeups = wakeups

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            begun = await duties.begin_rescue(connection)
            if begun is None:
                return False
            recovered_at, leases = begun
            if not leases:
                return False
            self.due_in = self._shortest
            async with connection.transaction():
                held = await duties.lock_expired(
                    connection, recovered_at=recovered_at, cancel_grace=self._limits.cancel_grace, limit=_CHUNK
                )
                ended, mailed = await _end(connection, held, "the lease expired", self._limits)
            await admit(connection, self._wakeups, _to_admit(ended, mailed))
        _announce(self._wakeups, ended, mailed)
        return len(held) == _CHUNK


async def rescue_from(
    database: Database, limits: JobLimits, worker_ids: Sequence[str], *, wakeups: Wakeups | None = None
) -> int:
    """Rescue at once the jobs of workers that are known to be dead; return how many."""
    total = 0
    while True:
        async with database.acquire() as connection, connection.transaction():
            held = await duties.lock_leases_of(connection, worker_ids, limit=_CHUNK)
            ended, mailed = await _end(connection, held, "the worker process died", limits)
        async with database.acquire() as connection:
            await admit(connection, wakeups, _to_admit(ended, mailed))
        if wakeups is not None:
            _announce(wakeups, ended, mailed)
        total += len(ended)
        if len(held) < _CHUNK:
            return total


def _to_admit(ended: Sequence[EndedAttempt], mailed: Mapping[TenantId, Mailed]) -> list[LimitedKey]:
    return [*store.freed_by(ended), *(key for mail in mailed.values() for key in mail.blocked)]


def _announce(wakeups: Wakeups, ended: Sequence[EndedAttempt], mailed: Mapping[TenantId, Mailed]) -> None:
    announce_ended(wakeups, ended)
    for tenant, mail in mailed.items():
        announce_mail(wakeups, tenant, mail)


async def _end(
    connection: Connection, held: Sequence[HeldLease], why: str, limits: JobLimits
) -> tuple[list[EndedAttempt], dict[TenantId, Mailed]]:
    ended: list[EndedAttempt] = []
    mailed: dict[TenantId, Mailed] = {}
    for tenant, leases in groupby(held, key=lambda lease: lease.tenant):
        verdicts = [
            judge(
                lease,
                Failure(epoch=lease.epoch, category=Category.WORKER_LOST, message=f"{why} (worker {lease.worker_id})"),
                limits.retry,
            )
            for lease in leases
        ]
        found, mailed[tenant] = await store.end_attempts(connection, tenant, verdicts)
        ended += found.values()
    if ended:
        log.warning("leases_rescued", jobs=len(ended), workers=sorted({str(lease.worker_id) for lease in held})[:10])
    return ended, mailed
