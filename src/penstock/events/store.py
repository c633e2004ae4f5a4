"""The event log in the database: the typed face of ``queries.sql``. Functions take the connection first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import asyncpg
from msgspec import Raw

from penstock.events.event import Connection, StoredEvent
from penstock.events.position import START, WHOLE_ROW, Position, mark_of
from penstock.postgres import queries

EVERYTHING: Final = 2**63 - 1
_PASS: Final = 5000  # events that one pass gives positions to
_PAGE: Final = 500  # rows read at once
_PAGE_BYTES: Final = 2**20  # of their data; the row that exceeds it is still read

_sql = queries.load(__file__)


class Standing(StrEnum):
    """Whether a reader can go on behind a position without missing anything."""

    HELD = "held"
    EXPIRED = "expired"  # retention has dropped what came behind it
    AHEAD = "ahead"  # the store has not come that far: it was restored from a backup, or failed over
    REPLACED = "replaced"  # the store went back and has given the position to another event since


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the store holds of a position."""

    floor: int  # the highest position that retention has dropped
    known_at: datetime | None  # the time of the row at the position, if the store has it
    event_id: int | None = None

    def standing(self, known: Position) -> Standing:
        """Whether a reader that knows the position can go on behind it."""
        if known.number < self.floor or (known.number == self.floor and known.number > 0 and known.index < WHOLE_ROW):
            return Standing.EXPIRED
        if known.number == 0:
            return Standing.HELD
        if self.known_at is None:
            return Standing.AHEAD
        return Standing.HELD if mark_of(self.known_at) == known.mark else Standing.REPLACED


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Stored rows in order; ``more`` if others follow them; ``place`` is the position that they were read behind."""

    rows: Sequence[StoredEvent]
    more: bool
    place: Place


async def record(connection: Connection, tenant: int, subject: str, *, kind: str, data: Raw) -> None:
    """Store an event about a subject of a room's own, within the caller's transaction."""
    await _sql.record.run(connection, tenant_id=tenant, subject=subject, kind=kind, data=data)


async def position_events(connection: Connection, *, settled: int = 0) -> bool:
    """Give positions to committed events that have none; false when another process is doing so.

    Ids up to ``settled`` that are still missing are given up; see Settling.
    """
    while True:
        try:
            given: int | None = await _sql.position_events.value(connection, settled=settled, limit=_PASS)
        except (asyncpg.UniqueViolationError, asyncpg.SerializationError):  # two at once, which the lock should prevent
            return False
        if given is None:
            return False
        if given < _PASS:
            return True


async def highest_id(connection: Connection) -> int:
    """The highest event id that any transaction has drawn."""
    highest: int = await _sql.highest_id.value(connection)
    return highest


async def writers(connection: Connection) -> set[str]:
    """The transactions that are writing events."""
    return {row["virtualtransaction"] for row in await _sql.writers.rows(connection)}


async def end_position(connection: Connection, tenant: int) -> Position:
    """The position behind everything that has one."""
    row = await _sql.end_position.row(connection, tenant_id=tenant)
    return START if row is None else Position(row["position"], WHOLE_ROW, mark_of(row["at"]))


async def locate(connection: Connection, tenant: int, position: Position) -> Place:
    """What the store holds of a position."""
    (row,) = await _sql.locate.rows(connection, tenant_id=tenant, position=position.number)
    return Place(floor=row["floor"], known_at=row["known_at"], event_id=row["event_id"])


async def read_events(connection: Connection, tenant: int, *, behind: Position, upto: int = EVERYTHING) -> Page:
    """A page of stored rows behind a position; the row that holds the position, unless it is behind the whole row."""
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
        place=Place(floor=rows[0]["floor"], known_at=rows[0]["known_at"]),
    )


def stored(row: asyncpg.Record) -> StoredEvent:
    """A row of ``event`` with its position."""
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
    )
