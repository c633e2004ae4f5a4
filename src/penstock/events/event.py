"""Events: the rows that rooms store, and the events that readers receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from penstock.events.position import Position, mark_of

Subject = UUID | str
Connection = asyncpg.Connection
_ROW_BYTES = 300  # of a stored row without its data, roughly
_JOB_BYTES = 64  # of each job in a row, roughly


class Event(Struct, frozen=True, kw_only=True):
    """A fact that happened to one subject."""

    position: Position
    source: str  # the room's path below the address of the service
    type: str  # "job.created", "job.started", …
    subject: Subject | None
    time: datetime | None
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The position in its wire format."""
        return str(self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A row of ``event`` with its position; it may represent an event of each of many jobs."""

    position: int
    at: datetime
    kind: str
    subject: str | None
    job_id: UUID | None
    job_ids: Sequence[UUID] | None
    series_ids: Sequence[int] | None
    epochs: Sequence[int] | None
    attempts: Sequence[int] | None
    first: int | None
    data: Raw | None
    run_ids: Sequence[UUID] | None = None  # for each subject, the run of a flow of which it is a part

    @property
    def subjects(self) -> Sequence[Subject]:
        """The subjects of the row's events, in order."""
        if self.job_ids is not None:
            return self.job_ids
        subject = self.subject if self.job_id is None else self.job_id
        return [] if subject is None else [subject]

    @property
    def size(self) -> int:
        """The bytes of memory that the row takes, roughly."""
        data = 0 if self.data is None else len(bytes(self.data))
        return _ROW_BYTES + data + _JOB_BYTES * (len(self.job_ids or ()) + len(self.run_ids or ()))

    def position_of(self, index: int) -> Position:
        """Return the position of the row's event number ``index``, counted from 1."""
        return Position(self.position, index, mark_of(self.at))


Expand = Callable[[StoredEvent], Iterator[Event]]


class Expansion(Protocol):
    """Converts a room's stored rows into events."""

    async def prepare(self, connection: Connection, rows: Sequence[StoredEvent], /) -> Expand:
        """Load what the rows refer to; return a function that expands any of them without waiting."""
        ...


class PlainExpansion:
    """Converts each row into one event; its data is a JSON object."""

    async def prepare(self, _connection: Connection, _rows: Sequence[StoredEvent], /) -> Expand:
        return self._expand

    def _expand(self, row: StoredEvent) -> Iterator[Event]:
        yield Event(
            position=row.position_of(1),
            source=f"/api/v1/{row.kind.partition('.')[0]}s",
            type=row.kind,
            subject=row.subject,
            time=row.at,
            data={} if row.data is None else msgspec.json.decode(row.data),
        )


async def expander(connection: Connection, rows: Sequence[StoredEvent], expansions: Mapping[str, Expansion]) -> Expand:
    """Return a function that expands these rows, each by the room that it belongs to.

    ``expansions`` holds a room's expansion by the first word of its rows' kinds; any other row becomes one event.
    """
    by_word: dict[str, list[StoredEvent]] = {}
    for row in rows:
        by_word.setdefault(row.kind.partition(".")[0], []).append(row)
    plain = PlainExpansion()
    prepared = {word: await expansions.get(word, plain).prepare(connection, own) for word, own in by_word.items()}
    return lambda row: prepared[row.kind.partition(".")[0]](row)
