"""Stream the events of jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Final
from uuid import UUID

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
)
from penstock.events.cloud_event import cloud_event
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.events.stream import OpenStream
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import reads, receives
from penstock.jobs.http.base import JOB_ID, JobRoutes
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import EventStream, Response
from penstock.web.route import Parameter, ResponseSpec, route

_EventId = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,18}(-[0-9]{1,18}){2})?$(?!\n)")]

_STREAM: Final = ResponseSpec(
    description=(
        "Server-sent events, each a CloudEvent. An event of type `reset` means that the events after the reader's "
        "last id are not available: `data.reason` is `expired` (retention has dropped them), `ahead` or `replaced` "
        "(the database is at an earlier state, as after a restore). The reader's state may be out of date; the stream "
        "continues with the job's first event or, for all jobs, with the events from now on."
    ),
    media_type="text/event-stream",
    example=examples.EVENT,
)
RESUME: Final = (
    Parameter(name="after", type=_EventId, description="resume after the event with this id"),
    Parameter(name="Last-Event-ID", type=_EventId, description="the same, as EventSource sends it", place="header"),
)


class EventRoutes(JobRoutes):
    """Sends the events of one job or of all jobs, as they happen."""

    @route(
        "GET",
        "/api/v1/jobs/{id}/events",
        name="watchJob",
        tag="Events",
        scope=scopes.JOBS_READ,
        summary="Stream a job's past and new events, until the job has finished",
        path_parameters=(JOB_ID,),
        parameters=RESUME,
        responses={200: _STREAM, 204: ResponseSpec(description="The job is finished and has no later event")},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def job_events(self, request: Request) -> Response | EventStream:
        return await self._events(request, request.path_id())

    @route(
        "GET",
        "/api/v1/events",
        name="watchAll",
        tag="Events",
        scope=scopes.JOBS_READ,
        summary="Stream the events of all jobs, from now on or after a given event",
        parameters=RESUME,
        responses={200: _STREAM},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def events(self, request: Request) -> Response | EventStream:
        return await self._events(request, None)

    async def _events(self, request: Request, job_id: UUID | None) -> Response | EventStream:
        position = resumed_after(request)
        if job_id is not None:
            if not reads(request.principal, await self.jobs(request).get(job_id)):
                raise NotFound(f"there is no job {job_id}")
            if position is not None and await self.jobs(request).events_over(job_id, position):
                return Response(status=204)  # makes an EventSource stop reconnecting
        events = await self.jobs(request).events(job_id=job_id, after=position)
        sender = request.principal
        return EventStream(chunks=as_chunks(events, lambda event: job_id is not None or receives(sender, event)))


def resumed_after(request: Request) -> Position | None:
    """Return the position after which the reader resumes. Raises InvalidInput."""
    stated = {
        "Last-Event-ID": request.header(b"last-event-id"),
        "after": request.query({"after": False}).get("after", [""])[0],
    }
    positions = [Position.parse(text, field) for field, text in stated.items() if text]
    return positions[0] if positions else None


async def as_chunks(events: OpenStream, visible: Callable[[Event], bool]) -> AsyncIterator[bytes]:
    """Yield the events that are visible to the sender as server-sent events, each a CloudEvent in structured mode.

    The first message is the id of the position where the stream begins, without an event: a reader whose connection
    breaks before the first event resumes there.
    """
    yield b"id: %b\n\n" % str(events.start).encode()
    async with aclosing(events):
        async for event in events:
            if visible(event):
                yield _as_chunk(event)


def _as_chunk(event: Event) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), cloud_event(event))
