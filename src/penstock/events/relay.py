"""A relay copies the stored events of all tenants to a broker, in their order, at least once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from penstock.events import store
from penstock.events.event import Connection, Event, Expand, Expansion, StoredEvent, expander
from penstock.events.position import WHOLE_ROW, Position
from penstock.events.store import Cursor, Standing
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs, metrics

log = logs.get(__name__)

ExpansionsOf = Callable[[int], Mapping[str, Expansion]]  # a tenant's expansions, by the first word of the kind

_SOON: Final = timedelta(milliseconds=20)
_HOLD: Final = timedelta(seconds=30)  # longer than one page takes
_EVENTS = metrics.counter("penstock_relayed_events", "Events that a broker has confirmed, by relay.", ["relay"])


class Destination(ABC):
    """The receiver of the events that a relay copies."""

    name: str

    @abstractmethod
    def ready(self) -> bool:
        """Return whether events can be sent now."""

    @abstractmethod
    async def send(self, tenant: str, events: Sequence[Event]) -> bool:
        """Send a tenant's events in order; return whether all were confirmed."""

    @abstractmethod
    async def share(self, tenant: int, behind: Position, rows: Sequence[StoredEvent]) -> None:
        """Share a tenant's stored rows behind a position with gateways, before their events are sent. Never raises."""


class Relay(Periodic):
    """Copies events while its process holds the relay; any number of processes may run it.

    What was sent and not recorded before a crash is sent again. Receivers discard events whose id they know.
    """

    def __init__(
        self,
        database: Database,
        destination: Destination,
        expansions: ExpansionsOf,
        *,
        interval: timedelta = timedelta(milliseconds=20),
        idle_interval: timedelta = timedelta(seconds=2),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        self._destination = destination
        self._expansions = expansions
        self._holder = uuid4()
        self._holds = False

    @property
    def name(self) -> str:
        return f"relay_{self._destination.name}"

    async def once(self) -> bool:
        if not self._destination.ready():
            return False
        async with self._database.acquire() as connection:
            numbered = await store.position_events(connection)
            if not await store.hold_relay(connection, self._destination.name, self._holder, hold=_HOLD):
                self._holds = False
                return False
            if not self._holds:
                log.info("relay_held", relay=self._destination.name)
            self._holds = True
            behind = await store.relay_behind(connection, self._destination.name)
        more = False
        for cursor in behind:
            more |= await self._copy_page(cursor)
        if not numbered:
            self.due_in = _SOON  # another process is giving positions to the newest events
        return more

    async def _copy_page(self, cursor: Cursor) -> bool:
        """Copy the next page of a tenant's events; return whether more follow."""
        async with self._database.acquire() as connection:
            page = await store.read_events(connection, cursor.tenant, behind=cursor.reached)
            standing = page.start.standing(cursor.reached)
            if standing is not Standing.HELD:
                return await self._begin_anew(connection, cursor, page.start.floor, standing)
            expand = await self._prepare(connection, cursor.tenant, page.rows)
        if not page.rows:
            return False
        await self._destination.share(cursor.tenant, cursor.reached, page.rows)
        events = [event for row in page.rows for event in expand(row)]
        if not await self._destination.send(cursor.tenant_name, events):
            return False
        _EVENTS.labels(self._destination.name).inc(len(events))
        async with self._database.acquire() as connection:
            held = await self._advance(connection, cursor, page.rows[-1].position, page.rows[-1].at)
        return held and page.more

    async def _prepare(self, connection: Connection, tenant: int, rows: Sequence[StoredEvent]) -> Expand:
        return await expander(connection, rows, self._expansions(tenant))

    async def _begin_anew(self, connection: Connection, cursor: Cursor, floor: int, standing: Standing) -> bool:
        """Continue with the oldest stored event: the database was restored, or retention has dropped unsent events."""
        log.warning("relay_begins_anew", relay=self._destination.name, tenant=cursor.tenant_name, reason=standing.value)
        start = await store.locate(connection, cursor.tenant, Position(floor, WHOLE_ROW))
        return await self._advance(connection, cursor, floor, start.known_at or datetime.now(UTC))

    async def _advance(self, connection: Connection, cursor: Cursor, position: int, at: datetime) -> bool:
        return await store.advance_relay(
            connection, self._destination.name, self._holder, tenant=cursor.tenant, position=position, at=at
        )
