"""The tail: reads a tenant's new events once per process and hands them to every open stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.events import store
from penstock.events.event import Connection, Expand, Expansion, StoredEvent, Subject, expander
from penstock.events.following import Following
from penstock.events.position import START, WHOLE_ROW, Position
from penstock.events.recent import RecentRows
from penstock.events.store import Standing
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.telemetry import logs, metrics

log = logs.get(__name__)

EVENTS: Final = "events"  # the topic of wake-ups that events were stored; no keys
_READER_BYTES: Final = 2**20  # of rows buffered for one reader; it reads the rest from the database
_TOTAL_BYTES: Final = 64 * 2**20  # of rows buffered for all readers
_READER_SUBJECTS: Final = 20_000  # that one reader follows at a time; about 500 bytes each
_TOTAL_SUBJECTS: Final = 100_000  # that all readers follow
_INTERVAL: Final = 0.002  # least seconds between the starts of two passes
_ROWS: Final = metrics.counter(
    "penstock_event_rows", "Rows of events that open streams have read, by source.", ["source"]
)
_STOPPED: Final = "This process is stopping; it opens no more streams of events."
# Seconds to the next pass without a wake-up:
_BUSY = 0.001  # while another process numbers events
_IDLE = 1.0


class Reader:
    """The registration of one open stream at the tail, with the rows buffered for it.

    A reader that ``grows`` follows also the subjects that become parts of those that it follows: the jobs that a run of
    a flow issues, and theirs.
    """

    __slots__ = ("behind", "bytes", "ended", "grows", "joined", "lost", "news", "rows", "subject", "subjects")

    def __init__(self, subject: Subject | None, *, grows: bool) -> None:
        self.subject = subject  # None: events of all subjects
        self.subjects: set[Subject] = set()
        self.grows = grows
        self.rows: deque[tuple[StoredEvent, Expand]] = deque()
        self.bytes = 0
        self.news = asyncio.Event()
        self.behind = True  # rows were left out: the reader has to read from the database, then rejoin the tail
        self.lost: Standing | None = None  # the store is at an earlier state: the reader has to begin again
        self.ended = False  # nothing more arrives: the tail has stopped, or the reader follows too many subjects
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wants(self, subject: Subject | None) -> bool:
        """Whether events of this subject are for the reader."""
        return self.subject is None or subject in self.subjects

    def has_rows_of(self, subject: Subject) -> bool:
        """Whether a row about a subject is buffered."""
        return any(subject in row.subjects for row, _ in self.rows)

    def is_lost(self) -> bool:
        """Whether the reader has to begin again."""
        return self.lost is not None

    def take_lost(self) -> Standing | None:
        """Return why the reader has to begin again, if it has to, and clear it: the caller begins again now."""
        lost, self.lost = self.lost, None
        return lost


class EventTail:
    """Gives positions to new events of all tenants, reads those of one tenant, and passes them to its readers.

    It runs only while there are readers. ``wake`` makes it read at once; otherwise it reads once a second. With
    ``recent``, it reads rows from Redis as far as Redis has them, and PostgreSQL otherwise.
    """

    def __init__(
        self,
        database: Database,
        tenant: int,
        expansions: Mapping[str, Expansion],
        recent: RecentRows | None = None,
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._expansions = expansions  # by the first word of the kind
        self._joining: list[Reader] = []
        self._all: dict[Reader, None] = {}
        self._by_subject: dict[Subject, dict[Reader, None]] = {}
        self._followed = 0  # pairs of a subject and a reader
        self._bytes = 0
        self._end = START
        self._recent = None if recent is None else Following(recent, tenant)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def end(self) -> Position:
        """The position up to which all events were passed to the readers."""
        return self._end

    @property
    def readers(self) -> int:
        """The number of open streams."""
        return sum(1 for _ in self._readers())

    @property
    def followed(self) -> int:
        """The number of subjects that open streams follow, one for each stream."""
        return self._followed

    def wake(self) -> None:
        """Read soon, because events were stored."""
        self._news.set()

    async def stop(self) -> None:
        """End the tail and every open stream; a stream that is still to be opened is refused."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._refuse(self._joining, DatabaseUnavailable(_STOPPED))
        for reader in self._readers():
            reader.ended = True
            reader.news.set()

    async def join(self, subject: Subject | None, *, grows: bool = False) -> Reader:
        """Return a reader that receives rows from now on; pass it to ``leave`` later.

        Raises DatabaseUnavailable, even if the tail has merely stopped.
        """
        if self._stopped:
            raise DatabaseUnavailable(_STOPPED)
        reader = Reader(subject, grows=grows)
        self._joining.append(reader)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            await reader.joined
        except BaseException:
            self.leave(reader)
            raise
        return reader

    def rejoin(self, reader: Reader) -> Position:
        """Let rows arrive again, from the position returned on; earlier rows are in the database."""
        self._drop_rows(reader)
        reader.behind = False
        return self._end

    def take(self, reader: Reader) -> tuple[StoredEvent, Expand] | None:
        """Return the next row for the reader."""
        if not reader.rows:
            return None
        row, expand = reader.rows.popleft()
        reader.bytes -= row.size
        self._bytes -= row.size
        return row, expand

    def leave(self, reader: Reader) -> None:
        """Unregister a reader."""
        self._drop_rows(reader)
        reader.behind = True
        if reader in self._joining:
            self._joining.remove(reader)
        self._all.pop(reader, None)
        for subject in list(reader.subjects):
            self.unfollow(reader, subject)

    def follow(self, reader: Reader, subject: Subject) -> bool:
        """Pass on rows about a further subject from now on; return False if that would be too many subjects."""
        if subject in reader.subjects:
            return True
        if len(reader.subjects) >= _READER_SUBJECTS or self._followed >= _TOTAL_SUBJECTS:
            return False
        self._register(reader, subject)
        return True

    def unfollow(self, reader: Reader, subject: Subject) -> None:
        """Pass on no more rows about a subject."""
        if subject not in reader.subjects:
            return
        reader.subjects.remove(subject)
        self._followed -= 1
        same = self._by_subject[subject]
        del same[reader]
        if not same:
            del self._by_subject[subject]

    def grow(self, reader: Reader, row: StoredEvent) -> None:
        """Follow the subjects of a row that are parts of those which the reader follows. Too many of them end it."""
        parts = zip(row.run_ids, row.subjects, strict=True) if row.run_ids else ()
        if not all(self.follow(reader, subject) for whole, subject in parts if whole in reader.subjects):
            reader.ended = True
            reader.news.set()

    async def prepare(self, connection: Connection, rows: Sequence[StoredEvent]) -> Expand:
        """Return a function that expands any of these rows, by the room that the row belongs to."""
        return await expander(connection, rows, self._expansions)

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), 0.0
        while not self._stopped and (self._joining or self._all or self._by_subject):
            await set_within(self._news, pause)
            if self._news.is_set() and self._recent is not None:
                self._recent.woken(loop.time())
            self._news.clear()
            not_before = loop.time() + _INTERVAL
            joining = self._joining.copy()  # a reader that joins during the pass waits for the next one
            try:
                pause = await self._advance(joining)
            except DatabaseUnavailable as error:
                self._refuse(joining, error)
                pause = 0.2
                continue
            except Exception as error:  # a failed pass must not leave every open stream without a tail
                log.exception("event_tail_failed")
                self._refuse(joining, error)
                await asyncio.sleep(1.0)
                continue
            self._admit(joining)
            await asyncio.sleep(not_before - loop.time())

    async def _advance(self, joining: Sequence[Reader]) -> float:
        """Pass on all new events; return the time to wait if no wake-up comes."""
        recent = self._recent
        if recent is None or joining or not (self._all or self._by_subject):
            return await self._read_database()
        now = asyncio.get_running_loop().time()
        rows = await recent.read(self._end, now)
        if rows is None:
            end = self._end
            pause = await self._read_database()
            recent.compared(now, missed=self._end.number - end.number)
            return pause
        if rows:
            _ROWS.labels("redis").inc(len(rows))
            async with self._database.acquire() as connection:
                self._hand_out(rows, await self.prepare(connection, rows))
                if recent.to_be_checked(now):
                    await self._check(connection, recent, now)
        return recent.pause(now)

    async def _check(self, connection: Connection, recent: Following, now: float) -> None:
        """Compare the end with PostgreSQL, which may have been restored, or be far ahead of Redis."""
        end = await store.end_position(connection, self._tenant)
        standing = (await store.locate(connection, self._tenant, self._end)).standing(self._end)
        if standing is not Standing.HELD:
            self._begin_anew(standing, end)
        recent.checked(now, behind=end.number - self._end.number)

    async def _read_database(self) -> float:
        """Number new events and pass on all after the end; return the time to wait if no wake-up comes."""
        async with self._database.acquire() as connection:
            numbered = await store.position_events(connection)
            if not self._all and not self._by_subject:
                self._end = await store.end_position(connection, self._tenant)
            while True:
                page = await store.read_events(connection, self._tenant, behind=self._end)
                standing = page.start.standing(self._end)
                if standing is not Standing.HELD:
                    self._begin_anew(standing, await store.end_position(connection, self._tenant))
                    break
                _ROWS.labels("postgresql").inc(len(page.rows))
                self._hand_out(page.rows, await self.prepare(connection, page.rows))
                if not page.more:
                    break
        return _IDLE if numbered else _BUSY

    def _hand_out(self, rows: Sequence[StoredEvent], expand: Expand) -> None:
        for row in rows:
            for reader in self._all:
                self._offer(reader, row, expand)
            if self._by_subject:
                for reader in self._concerned(row.run_ids or ()):
                    if reader.grows:
                        self.grow(reader, row)
                for reader in self._concerned(row.subjects):
                    self._offer(reader, row, expand)
        if rows:
            self._end = rows[-1].position_of(WHOLE_ROW)

    def _register(self, reader: Reader, subject: Subject) -> None:
        reader.subjects.add(subject)
        self._by_subject.setdefault(subject, {})[reader] = None
        self._followed += 1

    def _concerned(self, subjects: Iterable[Subject]) -> Iterable[Reader]:
        """Return the readers that follow any of these subjects, each once."""
        found: dict[Reader, None] = {}
        for subject in subjects:
            if same := self._by_subject.get(subject):
                found |= same
        return found

    def _offer(self, reader: Reader, row: StoredEvent, expand: Expand) -> None:
        if reader.behind:
            return
        size = row.size
        if reader.rows and (reader.bytes + size > _READER_BYTES or self._bytes + size > _TOTAL_BYTES):
            self._drop_rows(reader)
            reader.behind = True
        else:
            reader.rows.append((row, expand))
            reader.bytes += size
            self._bytes += size
        reader.news.set()

    def _readers(self) -> Iterator[Reader]:
        yield from self._all
        yield from self._concerned(list(self._by_subject))

    def _drop_rows(self, reader: Reader) -> None:
        self._bytes -= reader.bytes
        reader.bytes = 0
        reader.rows.clear()

    def _begin_anew(self, standing: Standing, end: Position) -> None:
        """Make every reader begin again, because the store no longer holds the events that they received."""
        log.warning("event_positions_lost", reason=standing.value, position=str(self._end), end=str(end))
        self._end = end
        for reader in self._readers():
            self._drop_rows(reader)
            reader.behind = True
            reader.lost = standing
            reader.news.set()

    def _admit(self, joining: Sequence[Reader]) -> None:
        for reader in joining:
            if reader not in self._joining:  # it has left
                continue
            self._joining.remove(reader)
            if reader.subject is None:
                self._all[reader] = None
            else:
                self._register(reader, reader.subject)
            if not reader.joined.done():
                reader.joined.set_result(None)

    def _refuse(self, joining: Sequence[Reader], error: Exception) -> None:
        for reader in joining:
            if not reader.joined.done():
                reader.joined.set_exception(error)
