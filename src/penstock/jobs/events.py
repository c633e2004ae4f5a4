"""What happened to jobs, as an ordered stream that can be resumed anywhere without a gap.

Events are stored by the statement that made them happen (``event`` in the schema). A reader passes them in the order
of (txn, id), where txn is the writing transaction's number, and only below the *horizon*: the lowest number that one of
our own connections may still be writing under. So a late commit is never overtaken, and a stranger's long transaction
on the same server holds nobody up. An event's id is ``txn-row-n``: the n-th job of that row; the same on every gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, Overloaded
from penstock.jobs import event_store
from penstock.jobs.names import Names
from penstock.jobs.sql import reading, store
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Notice
from penstock.processes.waiting import set_within
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

LAST_TYPES = frozenset({"job.completed", "job.failed", "job.cancelled"})
_EVERYTHING = 2**63 - 1
_SOON, _LATER = 0.02, 1.0  # seconds to the next look when no notice comes
_BACKLOG = 20_000  # events a slow reader may fall behind before it is sent away to resume
_BACKLOG_BYTES = 64 * 2**20  # of what they tell


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened to one job."""

    id: str
    type: str  # "job.created", "job.started", "job.progress", "job.output", "job.log", "job.completed", …
    time: datetime
    job_id: UUID
    data: dict[str, Any]  # what executors told (progress, chunks, lines) is raw JSON in it

    @property
    def weight(self) -> int:
        """Bytes of raw JSON in it."""
        return sum(len(value) for value in self.data.values() if isinstance(value, Raw))


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of all events: behind the n-th job of a row."""

    txn: int = 0
    row: int = 0
    n: int = 0

    @classmethod
    def parse(cls, text: str, field: str = "after") -> Position:
        """Read an event id; raises InvalidInput, which blames ``field``."""
        parts = text.split("-")
        if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
            return cls(*map(int, parts))
        raise InvalidInput.of(field, "must be the id of an event that this service sent")

    @property
    def before_row(self) -> tuple[int, int]:
        """Where to start reading so that the row comes again: some of its jobs may not have been told."""
        return (self.txn, self.row - 1)

    def __str__(self) -> str:
        return f"{self.txn}-{self.row}-{self.n}"


@dataclass(eq=False, slots=True)
class _Reader:
    """One open stream."""

    job_id: UUID | None
    joined: asyncio.Future[int]  # the horizon from which on events arrive here
    events: deque[tuple[Position, Event]] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    overrun: bool = False
    weight: int = 0  # bytes of raw JSON in ``events``
    told: Position = Position()  # the tail tells again from its last horizon when a look broke off half way

    def tell(self, position: Position, event: Event) -> None:
        if position <= self.told or (self.job_id is not None and event.job_id != self.job_id):
            return
        self.told = position
        if len(self.events) >= _BACKLOG or self.weight >= _BACKLOG_BYTES:
            self.overrun = True
        elif not self.overrun:
            self.events.append((position, event))
            self.weight += event.weight
        self.news.set()

    def take(self) -> Event:
        """The next event."""
        _, event = self.events.popleft()
        self.weight -= event.weight
        return event


class EventTail:
    """Reads new events of a tenant once per process and hands them to every open stream.

    It runs only while a stream is open. ``notice`` wakes it; it also looks once a second.
    """

    def __init__(self, database: Database, tenant: TenantId, names: Names) -> None:
        self._database = database
        self._tenant = tenant
        self._readers: set[_Reader] = set()
        self._joining: list[_Reader] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._names = names
        self._held_back = False  # somebody of ours was writing at the last look

    def notice(self, notice: Notice) -> None:
        """Look soon: something happened."""
        if notice.events or notice.everything:
            self._news.set()

    async def stop(self) -> None:
        """End the tail; streams that are still open get no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stream(self, *, job_id: UUID | None, after: Position | None) -> AsyncIterator[Event]:
        """Stored events behind ``after``, then live ones.

        Without ``after`` a job's stream starts at its creation, the stream of all jobs now. A job's stream ends with
        its last event when it is finished. Raises Overloaded when the reader falls too far behind: it may resume.
        """
        position = after or Position()
        reader = _Reader(job_id=job_id, joined=asyncio.get_running_loop().create_future())
        self._joining.append(reader)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            horizon = await reader.joined
            last: Event | None = None
            if job_id is not None or after is not None:
                async for _, event in self._history(job_id, position, horizon):
                    last = event
                    yield event
            if last is not None and last.type in LAST_TYPES and job_id is not None:
                return
            if last is None and job_id is not None and await self.is_over(job_id, position):
                return
            while True:
                while reader.events:
                    event = reader.take()
                    yield event
                    if job_id is not None and event.type in LAST_TYPES and not reader.events:
                        return
                if reader.overrun:
                    raise Overloaded("the reader is too slow; resume after the last event it has seen")
                reader.news.clear()
                await reader.news.wait()
        finally:
            self._readers.discard(reader)
            if reader in self._joining:
                self._joining.remove(reader)

    async def is_over(self, job_id: UUID, position: Position) -> bool:
        """Whether the job is finished and has no event behind ``position``; raises NotFound."""
        async with self._database.acquire() as connection:
            jobs = await reading.get(connection, self._tenant, [job_id])
            if job_id not in jobs:
                raise NotFound(f"there is no job {job_id}")
        if not jobs[job_id].status.finished:
            return False
        async for _ in self._history(job_id, position, _EVERYTHING):
            return False
        return True

    async def _history(
        self, job_id: UUID | None, position: Position, horizon: int
    ) -> AsyncIterator[tuple[Position, Event]]:
        behind = position.before_row
        while True:
            async with self._database.acquire() as connection:
                if job_id is not None:
                    page = await event_store.read_job_events(
                        connection, self._tenant, job_id, behind=behind, horizon=horizon
                    )
                else:
                    page = await event_store.read_events(connection, self._tenant, behind=behind, horizon=horizon)
                told = await self._expand(connection, page.rows)
            for place, event in told:
                if place > position and (job_id is None or event.job_id == job_id):
                    yield place, event
            if not page.more:
                return
            behind = (page.rows[-1]["txn"], page.rows[-1]["id"])

    async def _run(self) -> None:
        horizon = -1
        while self._readers or self._joining:
            await set_within(self._news, _SOON if self._held_back else _LATER)
            self._news.clear()
            try:
                horizon = await self._advance(horizon)
            except DatabaseUnavailable:
                await asyncio.sleep(0.2)
                continue
            except Exception:  # one bad look must not leave every open stream without a tail: the next may go well
                log.exception("event_tail_failed")
                await asyncio.sleep(1.0)
                continue
            joining, self._joining = self._joining, []
            for reader in joining:
                self._readers.add(reader)
                if not reader.joined.done():
                    reader.joined.set_result(horizon)

    async def _advance(self, old: int) -> int:
        """Tell everything between the old horizon and a new one; answers the new one."""
        async with self._database.acquire() as connection:
            new, ahead = await event_store.event_horizon(connection)
            self._held_back = new < ahead
            if old < 0 or not self._readers:
                return new
            behind = (old - 1, _EVERYTHING)
            while True:
                page = await event_store.read_events(connection, self._tenant, behind=behind, horizon=new)
                for position, event in await self._expand(connection, page.rows):
                    for reader in self._readers:
                        reader.tell(position, event)
                if not page.more:
                    return max(old, new)
                behind = (page.rows[-1]["txn"], page.rows[-1]["id"])

    async def _expand(self, connection: store.Connection, rows: list[asyncpg.Record]) -> list[tuple[Position, Event]]:
        series = await self._names.describe(connection, {s for row in rows for s in row["series_ids"] or ()})
        return [item for row in rows for item in _events_of(row, series)]


def _detail(row: asyncpg.Record) -> Any:
    """What a row tells beyond its columns: of all its jobs, or a list with one part per job.

    What executors told is anybody's JSON, so it is passed on unparsed; on one line, as event streams need it. A line
    break in valid JSON always stands between tokens.
    """
    if row["detail"] is None:
        return {}
    match row["type"]:
        case "job.progress":
            return {"progress": _on_one_line(row["detail"])}
        case "job.output":
            return {"first": row["first"], "chunks": _on_one_line(row["detail"])}
        case "job.log":
            return {"lines": _on_one_line(row["detail"])}
        case _:
            return msgspec.json.decode(row["detail"])


def _on_one_line(value: Raw) -> Raw:
    return Raw(bytes(value).replace(b"\r", b" ").replace(b"\n", b" "))


def _events_of(row: asyncpg.Record, series: dict[int, tuple[str, str, str]]) -> Iterator[tuple[Position, Event]]:
    """The events that one stored row stands for, one per job."""
    job_ids = row["job_ids"] if row["job_id"] is None else [row["job_id"]]
    detail = _detail(row)
    for index, job_id in enumerate(job_ids):
        data: dict[str, Any] = {}
        if row["series_ids"]:
            owner, task_type, profile = series.get(row["series_ids"][index], ("", "", ""))
            data |= {"owner_service": owner, "task_type": task_type, "model_profile": profile}
        if row["attempts"]:
            data["attempt"] = row["attempts"][index]
        if row["epochs"]:
            data["epoch"] = row["epochs"][index]
        data |= detail[index] if isinstance(detail, list) else detail
        position = Position(row["txn"], row["id"], index + 1)
        yield (
            position,
            Event(id=str(position), type=row["type"], time=row["at"], job_id=UUID(bytes=job_id.bytes), data=data),
        )
