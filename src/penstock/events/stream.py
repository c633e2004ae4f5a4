"""The stream of events for one reader: stored events first, then live ones, without a gap between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, cast

from penstock.events import store
from penstock.events.event import Event, Expand, StoredEvent, Subject
from penstock.events.position import START, WHOLE_ROW, Position
from penstock.events.store import Standing
from penstock.events.tail import EventTail, Reader
from penstock.postgres.pool import Database

RESET: Final = "reset"  # the type of the event after which a reader has to read the state again


class Lost(Exception):  # streams catch it themselves
    """The store no longer has the position after which the reader wants to resume."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.value)
        self.standing = standing


class History(Protocol):
    """Reads the stored events of a stream."""

    async def standing(self, after: Position) -> Standing:
        """Return whether a reader can resume after a position."""
        ...

    def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        """Yield the stored events after one position, up to another, in order; raises Lost."""
        ...


# Returns whether the stream has ended; called with the event that it yielded last, if any, its position and its reader.
IsOver = Callable[[Event | None, Position, Reader], Awaitable[bool]]
# Lets a reader follow the present parts of its subject, before events after a position are read.
Grow = Callable[[Reader, Position], Awaitable[None]]


class AllEvents:
    """The stored events of all subjects of a tenant. Their stream never ends."""

    def __init__(self, database: Database, tenant: int, tail: EventTail) -> None:
        self._database = database
        self._tenant = tenant
        self._tail = tail

    async def standing(self, after: Position) -> Standing:
        async with self._database.acquire() as connection:
            return (await store.locate(connection, self._tenant, after)).standing(after)

    async def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        async for row, expand in self.rows(behind, upto):
            for event in expand(row):
                if event.position > behind:
                    yield event

    async def rows(self, behind: Position, upto: Position) -> AsyncIterator[tuple[StoredEvent, Expand]]:
        """Yield the stored rows after one position, up to another, in order; raises Lost.

        The first may hold earlier events, too.
        """
        while behind < upto:
            async with self._database.acquire() as connection:
                page = await store.read_events(connection, self._tenant, behind=behind, upto=upto.number)
                expand = await self._tail.prepare(connection, page.rows)
            if (standing := page.start.standing(behind)) is not Standing.HELD:
                raise Lost(standing)
            for row in page.rows:
                yield row, expand
            if not page.more:
                return
            behind = page.rows[-1].position_of(WHOLE_ROW)


class OpenStream:
    """The events for one reader, as they happen. ``start`` is the position that they follow."""

    def __init__(self, start: Position, events: AsyncGenerator[Event, None]) -> None:
        self.start = start
        self._events = events

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Unregister the reader from the tail. Garbage collection of the stream does that as well."""
        await self._events.aclose()


class EventStream:
    """The state of one reader: the position it has reached, and how it continues."""

    def __init__(
        self,
        tail: EventTail,
        history: History,
        *,
        subject: Subject | None = None,
        is_over: IsOver | None = None,
        grow: Grow | None = None,
    ) -> None:
        self._tail = tail
        self._history = history
        self._subject = subject
        self._is_over = is_over
        self._grow = grow
        self.position = START

    async def open(self, after: Position | None) -> OpenStream:
        """Register with the tail, so that all events committed from now on arrive. Raises DatabaseUnavailable.

        Without ``after``, a subject's stream begins with its first event, and the stream of all events begins now. If
        the store does not hold ``after``, the stream begins with a reset.
        """
        events = self._follow(after)
        await anext(events)  # registers; the generator unregisters however it ends
        return OpenStream(self.position, cast("AsyncGenerator[Event, None]", events))

    async def _follow(self, after: Position | None) -> AsyncGenerator[Event | None, None]:
        reader = await self._tail.join(self._subject, grows=self._grow is not None)
        try:
            standing = Standing.HELD if after is None else await self._history.standing(after)
            self.position = after or (START if self._subject is not None else self._tail.end)
            await self._grow_reader(reader)
            yield None
            while True:
                if standing is not Standing.HELD:
                    yield self._reset(standing)
                    await self._grow_reader(reader)  # rows between were left out
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
        """Begin again: a subject's stream with its first event, the stream of all events from now on."""
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
        """Yield stored events, then live ones, again whenever rows were left out.

        End with the stream, when it is lost, or when the tail has stopped.
        """
        while not (reader.is_lost() or reader.ended):
            upto = self._tail.rejoin(reader)
            last: Event | None = None
            async for event in self._history.read(self.position, upto):
                self.position, last = event.position, event
                yield event
            if not reader.is_lost() and await self._over(reader, last):
                return
            async for event in self._live(reader):
                self.position = event.position
                yield event
                if await self._over(reader, event):
                    return

    async def _over(self, reader: Reader, last: Event | None) -> bool:
        return self._is_over is not None and await self._is_over(last, self.position, reader)

    async def _grow_reader(self, reader: Reader) -> None:
        if self._grow is not None:
            await self._grow(reader, self.position)

    async def _live(self, reader: Reader) -> AsyncIterator[Event]:
        """Yield rows as they arrive, until some were left out or the tail has stopped."""
        while not (reader.behind or reader.ended):
            taken = self._tail.take(reader)
            if taken is None:
                reader.news.clear()
                await reader.news.wait()
                continue
            row, expand = taken
            for event in expand(row):
                if event.position > self.position and reader.wants(event.subject):
                    yield event
