"""Event streams of jobs: expand a stored row into events of its jobs, and find the stored events of one job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.errors import NotFound
from penstock.events import store as event_log
from penstock.events.event import Connection, Event, Expand, StoredEvent
from penstock.events.position import START, Position
from penstock.events.recent import RecentRows
from penstock.events.store import Standing
from penstock.events.stream import AllEvents, EventStream, OpenStream
from penstock.events.tail import EventTail, Reader
from penstock.jobs.names import Names
from penstock.jobs.sql import history, reading
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

LAST_TYPES: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})
_SOURCE: Final = "/api/v1/jobs"
_Series = Mapping[int, tuple[str, str, str]]


class JobEvents:
    """The event streams of one tenant in one process."""

    def __init__(self, database: Database, tenant: TenantId, names: Names, recent: RecentRows | None = None) -> None:
        self.tail = EventTail(database, tenant, {"job": JobExpansion(names)}, recent)
        self._database = database
        self._tenant = tenant

    async def all(self, after: Position | None) -> OpenStream:
        """Stream the events of all subjects, jobs included, after ``after`` or from now on, without end."""
        return await EventStream(self.tail, AllEvents(self._database, self._tenant, self.tail)).open(after)

    async def of_job(self, job_id: UUID, after: Position | None) -> OpenStream:
        """Stream a job's events from its creation or after ``after``, until the last event of the finished job."""
        stored = JobHistory(self._database, self._tenant, self.tail, job_id)
        stream = EventStream(self.tail, stored, subject=job_id, is_over=stored.is_over)
        return await stream.open(after)

    async def is_over(self, job_id: UUID, after: Position) -> bool:
        """Return whether the job has finished and ``after`` is its last event, still stored. Raises NotFound."""
        stored = JobHistory(self._database, self._tenant, self.tail, job_id)
        return await stored.standing(after) is Standing.HELD and await stored.is_over(None, after)


class JobHistory:
    """The stored events of one job, read page by page. It remembers how far it has read."""

    def __init__(self, database: Database, tenant: TenantId, tail: EventTail, job_id: UUID) -> None:
        self._database = database
        self._tenant = tenant
        self._tail = tail
        self._job_id = job_id
        self._row_id = 0  # rows of the job up to this id were returned, or precede the start

    async def standing(self, after: Position) -> Standing:
        """Return whether a reader can resume after a position. If the job has an event there, reading begins at it."""
        if after == START:
            return Standing.HELD
        async with self._database.acquire() as connection:
            stored = await event_log.locate(connection, self._tenant, after)
            standing = stored.standing(after)
            if standing is Standing.HELD and stored.event_id is not None and stored.known_at is not None:
                job_id, event_id = self._job_id, stored.event_id
                if await history.concerns_job(connection, self._tenant, job_id, event_id=event_id, at=stored.known_at):
                    self._row_id = event_id - 1
        return standing

    async def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        """Return the job's stored events after one position, up to another."""
        if behind == START:
            self._row_id = 0
        more = True
        while more:
            async with self._database.acquire() as connection:
                page = await history.read_job_events(connection, self._tenant, self._job_id, row_id=self._row_id)
                rows = [row for row in page.rows if row.position <= upto.number]
                expand = await self._tail.prepare(connection, rows)
            for row in rows:
                if self._position_in(row) > behind:
                    for event in expand(row):
                        if event.subject == self._job_id:
                            yield event
            more = page.more and not page.unnumbered and len(rows) == len(page.rows)
            if more:
                self._row_id = page.last_id

    def _position_in(self, row: StoredEvent) -> Position:
        return row.position_of(row.subjects.index(self._job_id) + 1)

    async def is_over(self, last: Event | None, behind: Position, reader: Reader | None = None) -> bool:
        """Return whether the job has finished and no event follows; raises NotFound."""
        if reader is not None and reader.rows:
            return False
        if last is not None:
            return last.type in LAST_TYPES
        async with self._database.acquire() as connection:
            jobs = await reading.get(connection, self._tenant, [self._job_id])
            if self._job_id not in jobs:
                raise NotFound(f"there is no job {self._job_id}")
            if not jobs[self._job_id].status.finished:
                return False
            row_id, more = self._row_id, True
            while more:
                page = await history.read_job_events(connection, self._tenant, self._job_id, row_id=row_id)
                if page.unnumbered or any(self._position_in(row) > behind for row in page.rows):
                    return False
                row_id, more = page.last_id, page.more
        return True


class JobExpansion:
    """Expands a row about jobs into one event for each job."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def prepare(self, connection: Connection, rows: Sequence[StoredEvent], /) -> Expand:
        """Load the names of the rows' series."""
        series = await self._names.describe(connection, {s for row in rows for s in row.series_ids or ()})
        return lambda row: _events_of(row, series)


def _events_of(row: StoredEvent, series: _Series) -> Iterator[Event]:
    data_of = _data_of(row)
    for index, job_id in enumerate(row.subjects):
        data: dict[str, Any] = {}
        if row.series_ids:
            owner, task_type, profile = series.get(row.series_ids[index], ("", "", ""))
            data |= {"owner_service": owner, "task_type": task_type, "model_profile": profile}
        if row.attempts:
            data["attempt"] = row.attempts[index]
        if row.epochs:
            data["epoch"] = row.epochs[index]
        data |= data_of[index] if isinstance(data_of, list) else data_of
        yield Event(
            position=row.position_of(index + 1), source=_SOURCE, type=row.kind, subject=job_id, time=row.at, data=data
        )


def _data_of(row: StoredEvent) -> Any:
    """Return a row's data as one JSON value for all its jobs, or as a list with one value per job.

    Executors report arbitrary JSON. It is passed on unparsed, but on one line, as event streams require: a line break
    in valid JSON always stands between tokens, so it can be removed.
    """
    if row.data is None:
        return {}
    match row.kind:
        case "job.progress":
            return {"progress": _on_one_line(row.data)}
        case "job.output":
            return {"first": row.first, "chunks": _on_one_line(row.data)}
        case "job.log":
            return {"lines": _on_one_line(row.data)}
        case _:
            return msgspec.json.decode(row.data)


def _on_one_line(value: Raw) -> Raw:
    return Raw(bytes(value).replace(b"\r", b" ").replace(b"\n", b" "))
