"""Deletes tenants with all that they own, step by step.

The tenant's rows are deleted from every table with a ``tenant_id``, even of rooms that are added later: the tables are
read from the catalogue. A step is one short transaction. Nothing is stored about the progress, so another process can
continue at any time: a tenant is deleted when a whole pass over all tables has found nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from penstock.access import store as access_store
from penstock.access.audit import Action
from penstock.access.key_watch import TOPIC
from penstock.blobs import store as blobs
from penstock.housekeeping.sweeper import Sweeper
from penstock.jobs.announcements import announce
from penstock.postgres import queries
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR, TenantId

log = logs.get(__name__)

_STEPS: Final = 50  # per run of the duty
_BLOBS: Final = 1000  # removed by one step
_SOON: Final = timedelta(seconds=1)
_OBJECTS: Final = frozenset({"blob", "blob_leftover", "blob_part"})  # removed together with the objects in the stores
_SUMS: Final = frozenset({"usage_sum", "usage_dims"})  # kept for billing
_DELTAS: Final = "usage_delta"  # rolled up into the sums
_LAST: Final = ("lane", "series", "submitter", "pause")  # rows in other tables refer to these without a foreign key
# Other rows refer to these; they are deleted later in this pass, or have just arrived. The next pass deletes these
# rows.
_NOT_YET: Final = (asyncpg.ForeignKeyViolationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)

_sql = queries.load(__file__, "removal.sql")


@dataclass(slots=True)
class _Pass:
    """One pass over the tables: those left to empty, and the page at which the first of them continues."""

    leaves: list[str]
    final: bool  # it began after the tenant's jobs had had time to end, so it may be the last one
    page: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tenant:
    id: TenantId
    name: str
    deletes_usage: bool
    overdue: bool


class TenantRemoval(Periodic):
    """Deletes the tenants whose deletion an operator has requested, a number of steps at a time."""

    def __init__(
        self,
        database: Database,
        sweeper: Sweeper,
        wakeups: Wakeups,
        *,
        interval: timedelta = timedelta(seconds=1),
        idle_interval: timedelta = timedelta(seconds=30),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._sweeper = sweeper
        self._wakeups = wakeups
        self._passes: dict[TenantId, _Pass] = {}
        wakeups.subscribe(TOPIC, lambda _keys: self.wake())

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            found = [_Tenant(**row) for row in await _sql.deleting.rows(connection)]
        self._passes = {tenant.id: self._passes[tenant.id] for tenant in found if tenant.id in self._passes}
        if found:
            self.due_in = _SOON
        return any([await self._advance(tenant) for tenant in found])

    async def _advance(self, tenant: _Tenant) -> bool:
        """Delete some of what a tenant owns; return whether there is more to do right now."""
        if await self._runs(tenant):
            return False
        async with self._database.acquire() as connection:
            has_blobs = await blobs.remove_all(connection, tenant.id, limit=_BLOBS)
        if has_blobs:
            return await self._sweeper.once()
        current = self._passes.get(tenant.id)
        if current is None:
            current = self._passes[tenant.id] = _Pass(await self._leaves(tenant), final=tenant.overdue)
        for _ in range(_STEPS):
            if not current.leaves:
                return await self._end(tenant, current)
            await self._step(tenant, current)
        return True

    async def _runs(self, tenant: _Tenant) -> bool:
        """Request that running jobs stop; return whether some may still end by themselves."""
        async with self._database.acquire() as connection:
            row = await _sql.stop_jobs.row(connection, tenant_id=tenant.id)
        assert row is not None  # noqa: S101 - the statement always returns a row
        if row["requested"]:
            announce(self._wakeups, cancelled=True)
        return bool(row["running"]) and not tenant.overdue

    async def _leaves(self, tenant: _Tenant) -> list[str]:
        """Return the tables and partitions to empty, in order."""
        async with self._database.acquire() as connection:
            rows = await _sql.leaves.rows(connection)
        kept = _OBJECTS if tenant.deletes_usage else _OBJECTS | _SUMS | {_DELTAS}
        first = [row["leaf"] for row in rows if row["root"] not in kept and row["root"] not in _LAST]
        return [*first, *_LAST]

    async def _step(self, tenant: _Tenant, current: _Pass) -> None:
        leaf = current.leaves[0]
        if leaf == _LAST[0] and current.page == 0 and not await self._may_end(tenant, current):
            current.leaves.clear()
            return
        try:
            async with self._database.acquire() as connection:
                row = await _sql.delete_some.row(connection, tenant_id=tenant.id, leaf=leaf, page=current.page)
        except _NOT_YET:
            current.deleted += 1
            row = None
        if row is None or row["next_page"] is None:
            current.leaves.pop(0)
            current.page = 0
        else:
            current.page = row["next_page"]
        current.deleted += 0 if row is None else row["deleted"]

    async def _may_end(self, tenant: _Tenant, current: _Pass) -> bool:
        """Return whether no rows are left that refer to names of queues and users."""
        if current.deleted or not current.final:
            return False
        async with self._database.acquire() as connection:
            return tenant.deletes_usage or not await _sql.unbooked.value(connection, tenant_id=tenant.id)

    async def _end(self, tenant: _Tenant, current: _Pass) -> bool:
        """End a pass; delete the tenant itself if the pass has found nothing."""
        del self._passes[tenant.id]
        if current.deleted:
            return True
        if not await self._may_end(tenant, current):
            return False
        try:
            async with self._database.acquire() as connection, connection.transaction():
                gone = await _sql.finish.row(connection, tenant_id=tenant.id)
                if gone is not None:
                    usage = "deleted" if gone["deletes_usage"] else "kept"
                    action = Action(name="tenant.deleted", subject=gone["name"], after={"usage": usage})
                    await access_store.record(connection, DEFAULT_TENANT, OPERATOR, "", action)
        except _NOT_YET:
            return True
        log.info("tenant_deleted", tenant=tenant.name)
        return False
