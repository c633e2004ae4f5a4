"""One reader's way through the events: stored ones first, then live ones, without a gap between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, cast

from penstock.events import store
from penstock.events.event import Event, Subject
from penstock.events.position import START, WHOLE_ROW, Position
from penstock.events.store import Standing
from penstock.events.tail import EventTail, Reader
from penstock.postgres.pool import Database

RESET: Final = "reset"  # the type of the event that asks a reader to read the state anew


class Lost(Exception):  # it never leaves a stream
    """The store does not hold the position that the reader wants to go on behind."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.value)
        self.standing = standing


class History(Protocol):
    """How the stored events of a stream are read."""

    async def standing(self, after: Position) -> Standing:
        """Whether a reader can go on behind a position."""
        ...

    def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        """The stored events behind one position up to another, in order; raises Lost."""
        ...


# Return whether nothing follows in a stream; takes the event that it just gave, if any, and its position.
IsOver = Callable[[Event | None, Position], Awaitable[bool]]


class AllEvents:
    """The history of all events of a tenant. Its stream never ends."""

    def __init__(self, database: Database, tenant: int, tail: EventTail) -> None:
        self._database = database
        self._tenant = tenant
        self._tail = tail

    async def standing(self, after: Position) -> Standing:
        async with self._database.acquire() as connection:
            return (await store.locate(connection, self._tenant, after)).standing(after)

    async def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        while behind < upto:
            async with self._database.acquire() as connection:
                page = await store.read_events(connection, self._tenant, behind=behind, upto=upto.number)
                expand = await self._tail.prepare(connection, page.rows)
            if (standing := page.place.standing(behind)) is not Standing.HELD:
                raise Lost(standing)
            for row in page.rows:
                for event in expand(row):
                    if event.position > behind:
                        yield event
                behind = row.place(WHOLE_ROW)
            if not page.more:
                return


class OpenStream:
    """The events of one reader, as they come. ``start`` is the position that they follow."""

    def __init__(self, start: Position, events: AsyncGenerator[Event, None]) -> None:
        self.start = start
        self._events = events

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Give up the reader's place. A stream that is dropped gives it up as well."""
        await self._events.aclose()


class EventStream:
    """One reader's way: where it stands, and how it goes on."""

    def __init__(
        self,
        tail: EventTail,
        history: History,
        *,
        subject: Subject | None = None,
        is_over: IsOver | None = None,
    ) -> None:
        self._tail = tail
        self._history = history
        self._subject = subject
        self._is_over = is_over
        self.position = START

    async def open(self, after: Position | None) -> OpenStream:
        """Take the stream's place: what is committed from now on comes. Raises DatabaseUnavailable.

        Without ``after`` a subject's stream begins with its first event, the stream of all events now. If the store
        does not hold ``after``, the stream begins with a reset.
        """
        events = self._follow(after)
        await anext(events)  # takes the place; the generator gives it up, however it ends
        return OpenStream(self.position, cast("AsyncGenerator[Event, None]", events))

    async def _follow(self, after: Position | None) -> AsyncGenerator[Event | None, None]:
        reader = await self._tail.join(self._subject)
        try:
            standing = Standing.HELD if after is None else await self._history.standing(after)
            self.position = after or (START if self._subject is not None else self._tail.end)
            yield None
            while True:
                if standing is not Standing.HELD:
                    yield self._reset(standing)
                try:
                    async for event in self._until_lost(reader):
                        yield event
                    lost = reader.take_lost()
                except Lost as error:
                    reader.take_lost()
                    lost = error.standing
                if lost is None:
                    return
                standing = lost
        finally:
            self._tail.leave(reader)

    def _reset(self, standing: Standing) -> Event:
        """Begin anew: a subject's stream with its first event, the stream of all events now."""
        known = self.position
        self.position = START if self._subject is not None else self._tail.end
        return Event(
            position=self.position,
            source="/api/v1/events",
            type=RESET,
            subject=self._subject,
            time=None,
            data={"reason": standing.value, "after": str(known)},
        )

    async def _until_lost(self, reader: Reader) -> AsyncIterator[Event]:
        """Stored events, then live ones, again whenever rows were left out; until the end, or the reader is lost."""
        while not reader.is_lost():
            upto = self._tail.rejoin(reader)
            last: Event | None = None
            async for event in self._history.read(self.position, upto):
                self.position, last = event.position, event
                yield event
            if not reader.rows and not reader.is_lost() and await self._over(last):
                return
            async for event in self._live(reader):
                self.position = event.position
                yield event
                if not reader.rows and await self._over(event):
                    return

    async def _over(self, last: Event | None) -> bool:
        return self._is_over is not None and await self._is_over(last, self.position)

    async def _live(self, reader: Reader) -> AsyncIterator[Event]:
        """Rows as they arrive, until some were left out."""
        while not reader.behind:
            taken = self._tail.take(reader)
            if taken is None:
                reader.news.clear()
                await reader.news.wait()
                continue
            row, expand = taken
            for event in expand(row):
                if event.position > self.position and self._subject in {None, event.subject}:
                    yield event
