"""Events as rooms store them, and as readers receive them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
_ROW_BYTES = 300  # of a stored row beside its data, about
_JOB_BYTES = 64  # of one more job in a row, about


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened to one subject."""

    position: Position
    source: str  # the room's path below the address of the service
    type: str  # "job.created", "job.started", …
    subject: Subject | None
    time: datetime | None
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The position on the wire."""
        return str(self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One row of ``event`` with its position; it may stand for an event of each of many jobs."""

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

    @property
    def subjects(self) -> Sequence[Subject]:
        """The subjects of the row's events, in order."""
        if self.job_ids is not None:
            return self.job_ids
        subject = self.subject if self.job_id is None else self.job_id
        return [] if subject is None else [subject]

    @property
    def size(self) -> int:
        """Bytes of memory that the row takes, about."""
        data = 0 if self.data is None else len(bytes(self.data))
        return _ROW_BYTES + data + _JOB_BYTES * len(self.job_ids or ())

    def place(self, index: int) -> Position:
        """The position of the row's event number ``index``, counted from 1."""
        return Position(self.position, index, mark_of(self.at))


Expand = Callable[[StoredEvent], Iterator[Event]]


class Expansion(Protocol):
    """How a room's stored rows become events."""

    async def prepare(self, connection: Connection, rows: Sequence[StoredEvent], /) -> Expand:
        """Load what the rows refer to; the function returned expands any of them without waiting."""
        ...


class PlainExpansion:
    """A row is one event, its data a JSON object."""

    async def prepare(self, _connection: Connection, _rows: Sequence[StoredEvent], /) -> Expand:
        return self._expand

    def _expand(self, row: StoredEvent) -> Iterator[Event]:
        yield Event(
            position=row.place(1),
            source=f"/api/v1/{row.kind.partition('.')[0]}s",
            type=row.kind,
            subject=row.subject,
            time=row.at,
            data={} if row.data is None else msgspec.json.decode(row.data),
        )
