"""The housekeeper's duty that makes records of requests from events, by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from penstock.apps import catalogue, records
from penstock.apps.manifest import AppManifest
from penstock.apps.records import Change, Connection
from penstock.apps.sums import Record, Used, changes, updated
from penstock.events import store as event_log
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

_PAGE: Final = 500  # stored events that one transaction reads
_JOBS: Final = 5000  # jobs of requests that one transaction reads
_TENANTS: Final = 200  # of one pass


class AppRecorder(Periodic):
    """Writes records of requests, and their sums. Any number of processes may run it at once.

    Records, sums and the move of the cursor are one transaction, so each event counts once, whichever process ends at
    whatever moment. A pass gives events their positions first, so that a wake-up is enough to record what it announces.

    A record also has the position of the last event in it: if a cursor goes back, for example because
    an operator has set it back, the events that come again change nothing.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: timedelta = timedelta(milliseconds=500),
        idle_interval: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database

    async def once(self) -> bool:
        more = False
        async with self._database.acquire() as connection:
            if not await records.begin_cursors(connection):
                return False
            if not await event_log.position_events(connection):
                self.due_in = timedelta(0)  # another process is doing so
            behind = await records.cursors_behind(connection, limit=_TENANTS)
            apps = await _apps(connection) if behind else {}
            for tenant in behind:
                async with connection.transaction():
                    more |= await self._advance(connection, tenant, apps)
        return more or len(behind) == _TENANTS

    async def _advance(self, connection: Connection, tenant: TenantId, apps: Mapping[str, AppManifest]) -> bool:
        """Bring a page of a tenant's events into its records; return whether more follow."""
        cursor = await records.lock_progress(connection, tenant, limit=_PAGE)
        if cursor is None or cursor.page_end is None or cursor.last is None:
            return False
        page = await records.changes(connection, tenant, behind=cursor.position, upto=cursor.page_end, max_jobs=_JOBS)
        if page.changes:
            await self._record(connection, tenant, page.changes, apps)
        reached = page.changes[-1].position if page.more else cursor.page_end
        await records.advance(connection, tenant, reached)
        return reached < cursor.last

    async def _record(
        self,
        connection: Connection,
        tenant: TenantId,
        found: Sequence[Change],
        apps: Mapping[str, AppManifest],
    ) -> None:
        of_job = await records.requests_of(connection, tenant, list({change.job_id for change in found}))
        # Retention has dropped the requests of the other changes.
        known = [change for change in found if change.job_id in of_job]
        requests = {run: (app, apps[app].price.path if app in apps else None) for run, app in of_job.values()}
        states = await records.states(connection, tenant, requests)
        before = await records.lock_requests(connection, tenant, sorted(requests))
        new = [change for change in known if _is_new(change, before.get(of_job[change.job_id][0]))]
        used = await self._used(connection, tenant, new)
        after = []
        for run, of_request in _by_request(new, of_job).items():
            if run not in states:
                continue
            total = Used()
            for change in of_request:
                if change.epoch is not None and not change.is_run:
                    total = total.plus(used.get((change.job_id, change.epoch), Used())).plus(Used(attempts=1))
            after.append(_at_position_of_last(updated(before.get(run), states[run], total), of_request))
        if after:
            keep = {name: app.result_retention for name, app in apps.items()}
            timed = {name: one for name, one in keep.items() if one is not None}
            await records.store(connection, tenant, sorted(after, key=lambda record: record.run_id), keep=timed)
            await records.add(connection, tenant, changes(before, after))

    async def _used(
        self, connection: Connection, tenant: TenantId, found: Iterable[Change]
    ) -> dict[tuple[UUID, int], Used]:
        attempts = {(one.job_id, one.epoch) for one in found if one.epoch is not None and not one.is_run}
        return await records.usage_of(connection, tenant, sorted(attempts)) if attempts else {}


async def _apps(connection: Connection) -> dict[str, AppManifest]:
    """Return the manifests of apps, by name."""
    return {app.name: app.manifest for app in await catalogue.every(connection) if app.manifest is not None}


def _is_new(change: Change, before: Record | None) -> bool:
    return before is None or change.position > before.position


def _by_request(found: Iterable[Change], of_job: Mapping[UUID, tuple[UUID, str]]) -> dict[UUID, list[Change]]:
    grouped: dict[UUID, list[Change]] = {}
    for change in found:
        grouped.setdefault(of_job[change.job_id][0], []).append(change)
    return grouped


def _at_position_of_last(record: Record, found: Sequence[Change]) -> Record:
    """Return the record with the position of the last of its events, which come in order."""
    return replace(record, position=found[-1].position)
