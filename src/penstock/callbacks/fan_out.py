"""The housekeeper's duty that turns events into deliveries, by position."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from penstock.callbacks import cursors, event_types
from penstock.callbacks.announcing import ENDPOINTS, SUBMITTED
from penstock.callbacks.cursors import Connection, Cursor, EventPage, Listener, NewDelivery
from penstock.callbacks.message import stored_data
from penstock.events import store as event_log
from penstock.events.event import Event, Expand, Expansion, PlainExpansion, StoredEvent
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

_PAGE: Final = 500  # stored events that one transaction reads
_CHUNK: Final = 1000  # deliveries that one statement adds
_TENANTS: Final = 200  # per pass
_UNUSED: Final = timedelta(seconds=5)  # between two checks whether there are endpoints, while there are none
_MAX_REMEMBERED: Final = 1000  # tenants whose expansions are kept

# Returns how the stored events of a tenant are expanded, by the first word of their types.
Expansions = Callable[[TenantId], Mapping[str, Expansion]]


class CallbackFanOut(Periodic):
    """Adds a delivery for each endpoint that wants an event. Any number of processes may run it at once.

    The deliveries and the cursor's move are one transaction, so each event becomes deliveries once, whichever process
    dies at whatever moment. Events are read by position, and they get that after their commit.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        expansions: Expansions,
        *,
        interval: timedelta = timedelta(milliseconds=25),
        idle_interval: timedelta = timedelta(seconds=1),  # while there are endpoints
    ) -> None:
        super().__init__(interval=interval, idle_interval=max(idle_interval, _UNUSED))
        self._poll = idle_interval
        self._database = database
        self._wakeups = wakeups
        self._expansions_of = expansions
        self._expansions: dict[TenantId, Mapping[str, Expansion]] = {}
        self._plain = PlainExpansion()
        self._unused_until = 0.0  # monotonic
        wakeups.subscribe(SUBMITTED, lambda _keys: self._used())

    def _used(self) -> None:
        self._unused_until = 0.0
        self.wake()

    async def once(self) -> bool:
        if time.monotonic() < self._unused_until:
            return False
        more = False
        async with self._database.acquire() as connection:
            if not await cursors.any_tenant(connection):
                self._unused_until = time.monotonic() + _UNUSED.total_seconds()
                return False
            self.due_in = self._poll
            if not await event_log.position_events(connection):
                self.due_in = timedelta(0)  # another process works on this tenant
            behind = await cursors.cursors_behind(connection, limit=_TENANTS)
            for tenant in behind:
                async with connection.transaction():
                    again, endpoints = await self._advance(connection, tenant)
                if endpoints:
                    self._wakeups.announce(ENDPOINTS, {one.hex: 1 for one in endpoints})
                more = more or again
        return more or len(behind) == _TENANTS

    async def _advance(self, connection: Connection, tenant: TenantId) -> tuple[bool, set[UUID]]:
        """Turn a page of a tenant's events into deliveries; returns whether more follow, and their endpoints.

        The end of the page is read first. The statements that follow see every endpoint that was registered or named
        before an event of the page was committed.
        """
        cursor = await cursors.lock_progress(connection, tenant, limit=_PAGE)
        if cursor is None or cursor.page_end is None or cursor.last is None:
            return False, set()
        if cursor.position < cursor.floor:
            log.warning("callback_events_expired", position=cursor.position, floor=cursor.floor)
        listeners = await cursors.listeners(connection, tenant)
        kinds = await self._kinds(connection, tenant, cursor, listeners)
        if not kinds:
            await cursors.advance(connection, tenant, cursor.last)
            return False, set()
        page = await cursors.wanted_events(
            connection, tenant, behind=cursor.position, upto=cursor.page_end, kinds=kinds
        )
        endpoints: set[UUID] = set()
        async for chunk in self._deliveries(connection, tenant, page, listeners):
            endpoints |= await cursors.add(connection, tenant, chunk)
        reached = page.rows[-1].position if page.more else cursor.page_end
        await cursors.advance(connection, tenant, reached)
        return reached < cursor.last, endpoints

    async def _kinds(
        self, connection: Connection, tenant: TenantId, cursor: Cursor, listeners: Sequence[Listener]
    ) -> list[str]:
        """Return the types of events to read; none if no endpoint wants any."""
        kinds = [kind for listener in listeners for kind in listener.events]
        if listeners:
            kinds.append(event_types.TEST)
        if cursor.kinds and await cursors.any_job(connection, tenant):
            kinds += cursor.kinds
        return event_types.as_like(kinds)

    async def _deliveries(
        self, connection: Connection, tenant: TenantId, page: EventPage, listeners: Sequence[Listener]
    ) -> AsyncIterator[list[NewDelivery]]:
        """Yield the deliveries of events in order, in chunks."""
        expand = await self._expand(connection, tenant, page.rows)
        chunk: list[NewDelivery] = []
        for row in page.rows:
            subjects = [one for one in row.subjects if isinstance(one, UUID)]
            named = await cursors.endpoints_of_jobs(connection, tenant, subjects) if subjects else {}
            for event in expand(row):
                wanting = [one.id for one in listeners if _wanted_by(one, event)]
                own = named.get(event.subject, ()) if isinstance(event.subject, UUID) else ()
                wanting += [endpoint for endpoint, kinds in own if event_types.wants(kinds, event.type)]
                if wanting:
                    chunk += _new(event, wanting)
                if len(chunk) >= _CHUNK:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    async def _expand(self, connection: Connection, tenant: TenantId, rows: Sequence[StoredEvent]) -> Expand:
        """Return a function that expands any of these rows, by the room that the row belongs to."""
        if tenant not in self._expansions:
            if len(self._expansions) >= _MAX_REMEMBERED:
                self._expansions.clear()
            self._expansions[tenant] = self._expansions_of(tenant)
        known = self._expansions[tenant]
        by_word: dict[str, list[StoredEvent]] = {}
        for row in rows:
            by_word.setdefault(row.kind.partition(".")[0], []).append(row)
        prepared = {word: await known.get(word, self._plain).prepare(connection, own) for word, own in by_word.items()}
        return lambda row: prepared[row.kind.partition(".")[0]](row)


def _wanted_by(listener: Listener, event: Event) -> bool:
    if event.type == event_types.TEST:
        return str(event.subject) == str(listener.id)
    return event.position.number > listener.since and event_types.wants(listener.events, event.type)


def _new(event: Event, endpoints: Sequence[UUID]) -> list[NewDelivery]:
    data = stored_data(event.data)
    assert event.time is not None  # noqa: S101 - stored events have one
    return [
        NewDelivery(
            endpoint_id=endpoint,
            position=event.position.number,
            place=event.position.index,
            mark=event.position.mark,
            kind=event.type,
            source=event.source,
            subject=str(event.subject or ""),
            at=event.time,
            data=data,
        )
        for endpoint in endpoints
    ]
