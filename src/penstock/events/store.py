"""The event log in the database: typed functions for ``queries.sql``. Each takes the connection first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.events.event import Connection, StoredEvent
from penstock.events.position import START, WHOLE_ROW, Position, mark_of
from penstock.postgres import queries

EVERYTHING: Final = 2**63 - 1
SETTLE_AFTER: Final = timedelta(seconds=10)  # between two checks of missing event ids, if no housekeeper runs
_PASS: Final = 5000  # events that one pass numbers
_PAGE: Final = 500  # rows in one page
_PAGE_BYTES: Final = 2**20  # of data in one page; the row that exceeds it is still read

_sql = queries.load(__file__)


class Standing(StrEnum):
    """Whether a reader can resume after a position without missing an event."""

    HELD = "held"
    EXPIRED = "expired"  # retention has dropped events after it
    AHEAD = "ahead"  # the store has not reached it: it was restored from a backup, or failed over
    REPLACED = "replaced"  # as AHEAD, but another event has the position by now


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPosition:
    """The state of the store at a position."""

    floor: int  # the highest position that retention has dropped
    known_at: datetime | None  # the time of the row at the position, if the store has it
    event_id: int | None = None

    def standing(self, known: Position) -> Standing:
        """Return whether a reader that has reached the position ``known`` can resume after it."""
        if known.number < self.floor or (known.number == self.floor and known.number > 0 and known.index < WHOLE_ROW):
            return Standing.EXPIRED
        if known.number == 0:
            return Standing.HELD
        if self.known_at is None:
            return Standing.AHEAD
        return Standing.HELD if mark_of(self.known_at) == known.mark else Standing.REPLACED


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Stored rows in order. ``more`` is whether others follow; ``start`` is the position before them."""

    rows: Sequence[StoredEvent]
    more: bool
    start: StoredPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The position up to which a relay has copied a tenant's events."""

    tenant: int
    tenant_name: str
    reached: Position


async def record(connection: Connection, tenant: int, subject: str, *, kind: str, data: Raw) -> None:
    """Store an event about a subject that is not a job, within the caller's transaction."""
    await _sql.record.run(connection, tenant_id=tenant, subject=subject, kind=kind, data=data)


async def position_events(connection: Connection, *, settle_after: timedelta = SETTLE_AFTER) -> bool:
    """Give positions to committed events that have none; return False when another process is doing so.

    Whether missing ids can be given up is checked if ``settle_after`` has passed since the last check.
    """
    while True:
        try:
            given: int | None = await _sql.position_events.value(connection, limit=_PASS, settle_after=settle_after)
        except (
            asyncpg.UniqueViolationError,
            asyncpg.SerializationError,
        ):  # two passes at once, which the lock should prevent
            return False
        if given is None:
            return False
        if given < _PASS:
            return True


async def end_position(connection: Connection, tenant: int) -> Position:
    """Return the position after all events that have one."""
    row = await _sql.end_position.row(connection, tenant_id=tenant)
    return START if row is None else Position(row["position"], WHOLE_ROW, mark_of(row["at"]))


async def locate(connection: Connection, tenant: int, position: Position) -> StoredPosition:
    """Return the state of the store at a position."""
    (row,) = await _sql.locate.rows(connection, tenant_id=tenant, position=position.number)
    return StoredPosition(floor=row["floor"], known_at=row["known_at"], event_id=row["event_id"])


async def read_events(connection: Connection, tenant: int, *, behind: Position, upto: int = EVERYTHING) -> Page:
    """Return a page of stored rows after a position, beginning with its own row unless that was read as a whole."""
    rows = await _sql.read_events.rows(
        connection,
        tenant_id=tenant,
        known=behind.number,
        behind=behind.number if behind.index == WHOLE_ROW else behind.number - 1,
        upto=upto,
        limit=_PAGE,
        max_bytes=_PAGE_BYTES,
    )
    found = [stored(row) for row in rows if row["position"] is not None]
    available = rows[0]["available"] or 0
    return Page(
        rows=found,
        more=available == _PAGE or available > len(found),
        start=StoredPosition(floor=rows[0]["floor"], known_at=rows[0]["known_at"]),
    )


async def hold_relay(connection: Connection, relay: str, holder: UUID, *, hold: timedelta) -> bool:
    """Hold a relay for a time; return False if another process holds it."""
    row = await _sql.hold_relay.row(connection, relay=relay, holder=holder, seconds=hold.total_seconds())
    return row is not None


async def relay_behind(connection: Connection, relay: str) -> list[Cursor]:
    """Return the cursors of the tenants that have events which the relay has not copied."""
    return [
        Cursor(
            tenant=row["tenant_id"],
            tenant_name=row["name"],
            reached=START if not row["position"] else Position(row["position"], WHOLE_ROW, mark_of(row["at"])),
        )
        for row in await _sql.relay_behind.rows(connection, relay=relay)
    ]


async def advance_relay(
    connection: Connection, relay: str, holder: UUID, *, tenant: int, position: int, at: datetime
) -> bool:
    """Record that the events up to a position were copied; return False if the relay is no longer held."""
    reached = await _sql.advance_relay.value(
        connection, relay=relay, holder=holder, tenant_id=tenant, position=position, at=at
    )
    return reached is not None


def stored(row: asyncpg.Record) -> StoredEvent:
    """Convert a row of ``event`` with its position."""
    return StoredEvent(
        position=row["position"],
        at=row["at"],
        kind=row["kind"],
        subject=row["subject"],
        job_id=row["job_id"],
        job_ids=row["job_ids"],
        series_ids=row["series_ids"],
        epochs=row["epochs"],
        attempts=row["attempts"],
        first=row["first"],
        data=row["data"],
        run_ids=row.get("run_ids"),  # only the readers of all events select it
    )
