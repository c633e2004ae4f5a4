"""The stream of events, over server-sent events; it resumes after broken connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Struct

from penstock.client.transport import Transport, error_of
from penstock.errors import PenstockError, ServiceError
from penstock.event_stream import LARGEST_OWN, Events

_SILENCE: Final = 90.0  # seconds without a byte after which a connection counts as dead; the gateway sends comments
_LONGEST_PAUSE: Final = 5.0
_LARGEST_LINE: Final = 2**24
LAST_TYPES: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})


class Event(Struct, frozen=True, kw_only=True):
    """A fact about a job or another subject; pass its ``id`` to resume the stream after it."""

    id: str
    type: str  # "job.created", "job.started", "job.progress", "job.completed", …
    time: datetime
    subject: str  # the job's id, for events of jobs
    data: dict[str, Any] = {}

    @property
    def job_id(self) -> UUID:
        """The job's id; raises ValueError for an event of another subject."""
        return UUID(self.subject)


class EventsLost(PenstockError):
    """The events after the last one seen are not available: read the state again, then resume after ``resume_after``.

    ``reason``: "expired" (retention has dropped them), "ahead" or "replaced" (the database is at an earlier state, as
    after a restore or a failover). After that, the stream of a job begins with its first event, and that of all jobs
    with new events.
    """

    code = "events_lost"

    def __init__(self, reason: str, *, after: str, resume_after: str) -> None:
        super().__init__(f"the events after {after} are not available ({reason}); read the state again")
        self.reason = reason
        self.after = after
        self.resume_after = resume_after


class _ResetData(Struct, frozen=True):
    reason: str
    after: str


class _Reset(Struct, frozen=True):
    id: str
    data: _ResetData


class Stream:
    """The state of one reader of the events; ``last_id`` is the last one it has seen."""

    def __init__(self, transport: Transport, path: str, *, after: str | None) -> None:
        self.last_id = after
        self.ended = False  # the gateway closed the last connection properly
        self.count = 0  # number of events on the last connection
        self._transport = transport
        self._path = path
        self._retry = 0.2

    async def connection(self) -> AsyncIterator[Event]:
        """Yield the events of one connection until it ends, properly or not. Raises EventsLost."""
        self.ended, self.count = False, 0
        headers = {"Accept": "text/event-stream"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE)
        try:
            async with self._transport.session().get(
                self._transport.url + self._path, headers=headers, timeout=timeout, max_line_size=_LARGEST_LINE
            ) as response:
                if response.status == 204:  # the stream has ended: there is no event after the last one
                    self.ended = True
                    return
                if response.status != 200:
                    raise error_of(response.status, await response.read(), response.headers)
                self._retry = 0.2
                async for event in self._events_of(response):
                    self.last_id = event.id
                    self.count += 1
                    yield event
                self.ended = True
        except (aiohttp.ClientError, OSError, ServiceError):
            return

    async def _events_of(self, response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
        received = Events(LARGEST_OWN)
        async for piece in response.content.iter_any():
            for one in received.feed(piece):
                if one.name == "reset":
                    raise self._lost(msgspec.json.decode(one.data, type=_Reset))
                if one.name == "revoked":
                    raise error_of(401, one.data, response.headers)
                yield msgspec.json.decode(one.data, type=Event)
            self.last_id = received.last_id or self.last_id  # an id may come alone, before the first event

    def _lost(self, reset: _Reset) -> EventsLost:
        return EventsLost(reset.data.reason, after=reset.data.after, resume_after=reset.id)

    async def pause(self) -> None:
        """Wait before the next connection, longer after each failure to connect."""
        await asyncio.sleep(self._retry)
        self._retry = min(self._retry * 2, _LONGEST_PAUSE)
