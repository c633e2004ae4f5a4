"""Event streams of runs with everything that they have issued: their jobs, the runs of child flows, and theirs.

A reader follows the run alone at first. A stored row about new jobs names the run that has issued each, which adds
them. Items of maps are left out, because there may be any number of them; the job of a map reports their counts as its
progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from penstock.errors import TooLarge
from penstock.events import store as event_log
from penstock.events.event import Event
from penstock.events.position import START, Position, mark_of
from penstock.events.store import Standing
from penstock.events.stream import AllEvents, EventStream, OpenStream
from penstock.events.tail import EventTail, Reader
from penstock.flows.sql import runs
from penstock.flows.sql.runs import PartsCursor
from penstock.jobs.events import LAST_TYPES, JobHistory
from penstock.jobs.sql import history
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId


class RunEvents:
    """The event streams of the runs of one tenant in one process."""

    def __init__(self, database: Database, tenant: TenantId, tail: EventTail) -> None:
        self._database = database
        self._tenant = tenant
        self._tail = tail

    async def of_run(self, run_id: UUID, after: Position | None) -> OpenStream:
        """Stream the events of a run and of all that it issues, until the event with which the run ends.

        Raises TooLarge when it has too many jobs at a time.
        """
        stored = RunHistory(self._database, self._tenant, self._tail, run_id)
        stream = EventStream(self._tail, stored, subject=run_id, is_over=stored.is_over, grow=stored.grow)
        return await stream.open(after)

    async def is_over(self, run_id: UUID, after: Position) -> bool:
        """Return whether the run has ended and has no event after ``after``, which is stored. Raises NotFound."""
        run = JobHistory(self._database, self._tenant, self._tail, run_id)
        return await run.standing(after) is Standing.HELD and await run.is_over(None, after)


class RunHistory:
    """The stored events of a run and of all that it has issued, filtered from all events of its tenant."""

    def __init__(self, database: Database, tenant: TenantId, tail: EventTail, run_id: UUID) -> None:
        self._database = database
        self._tenant = tenant
        self._tail = tail
        self._run_id = run_id
        self._run = JobHistory(database, tenant, tail, run_id)
        self._all = AllEvents(database, tenant, tail)
        self._reader: Reader | None = None
        self._ended = False  # the last event of the run that was read is one with which runs end

    async def standing(self, after: Position) -> Standing:
        return await self._run.standing(after)

    async def grow(self, reader: Reader, after: Position) -> None:
        """Follow the present jobs of the run, theirs, and so on.

        Each run is followed before its jobs are read, so one that it issues later arrives with a row. Raises TooLarge.
        """
        self._reader = reader
        known_at = await self._time_of(after)
        waiting = [PartsCursor.of(self._run_id)]
        while waiting:
            async with self._database.acquire() as connection:
                parts, waiting = await runs.tree_parts(connection, self._tenant, waiting, known_at=known_at)
            for part in parts:
                if not part.is_old and not self._tail.follow(reader, part.id):
                    raise TooLarge(
                        f"run {self._run_id} has too many jobs for one stream of events; read the streams of its jobs"
                    )
                if part.is_run:
                    waiting.append(PartsCursor.of(part.id))

    async def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        """Yield the stored events after one position, up to another; end with the event that ends the run."""
        if behind == START:
            behind = await self._beginning()
        reader = self._reader
        if reader is None or behind == START:
            return
        async for row, expand in self._all.rows(behind, upto):
            self._tail.grow(reader, row)
            if reader.ended:
                return
            if reader.subjects.isdisjoint(row.subjects):
                continue
            for event in expand(row):
                if event.position > behind and reader.wants(event.subject):
                    yield event
                    self._passed(event, reader)
                    if self._ended and await self._run.is_over(None, event.position):
                        return
                    self._ended = False

    async def is_over(self, last: Event | None, behind: Position, reader: Reader) -> bool:
        """Return whether the run has ended and no event of it follows; raises NotFound."""
        if last is None:
            return not reader.has_rows_of(self._run_id) and await self._run.is_over(None, behind)
        self._passed(last, reader)
        return self._ended and not reader.has_rows_of(self._run_id)

    def _passed(self, event: Event, reader: Reader) -> None:
        if event.subject == self._run_id:
            self._ended = event.type in LAST_TYPES
        elif event.type in LAST_TYPES and event.subject is not None:
            self._tail.unfollow(reader, event.subject)  # nothing more follows: a part of a run is not retried

    async def _beginning(self) -> Position:
        """Return the position before the first stored event of the run; START when none has a position."""
        async with self._database.acquire() as connection:
            page = await history.read_job_events(connection, self._tenant, self._run_id, row_id=0)
        if not page.rows:
            return START
        return Position(page.rows[0].position, 0, mark_of(page.rows[0].at))

    async def _time_of(self, position: Position) -> datetime | None:
        if position == START:
            return None
        async with self._database.acquire() as connection:
            return (await event_log.locate(connection, self._tenant, position)).known_at
