"""Stream the events of runs."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, TooLarge
from penstock.events.event import Event
from penstock.flows.http.base import RUN_ID, RunRoutes
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import receives
from penstock.jobs.http.events import RESUME, as_chunks, resumed_after
from penstock.tenants import scopes
from penstock.tenants.principal import Principal
from penstock.web.request import Request
from penstock.web.response import EventStream, Response
from penstock.web.route import ResponseSpec, route

_STREAM: Final = ResponseSpec(
    description=(
        "Server-sent events, each a CloudEvent, as those of jobs. The last one is that with which the run ends. After "
        "an event of type `reset` the stream begins again with the run's first event."
    ),
    media_type="text/event-stream",
    example=examples.EVENT,
)


class RunEventRoutes(RunRoutes):
    """Sends the events of a run and of all that it issues, as they happen."""

    @route(
        "GET",
        "/api/v1/flows/runs/{id}/events",
        name="watchRun",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="Stream the past and new events of a run and of all that it issues, until the run has ended",
        description="The events are those of the run, of its jobs, of runs of child flows and their jobs, and those "
        "that the runs publish. A map is one job: its progress has the counts of its items, whose own events are left "
        "out. A key that is limited to some queues gets only their events. Reading from the beginning reads all "
        "events of the tenant since then: a reader that has read the run can begin after its `last_event_id`.",
        path_parameters=(RUN_ID,),
        parameters=RESUME,
        responses={200: _STREAM, 204: ResponseSpec(description="The run has ended and has no later event")},
        errors=(InvalidInput, NotFound, TooLarge, DatabaseUnavailable),
    )
    async def events(self, request: Request) -> Response | EventStream:
        run_id, position = request.path_id(), resumed_after(request)
        await self.readable(request, run_id)
        sender = request.principal
        if position is not None and await self._service.events_over(sender.tenant, run_id, position):
            return Response(status=204)  # makes an EventSource stop reconnecting
        events = await self._service.events(sender.tenant, run_id, position)
        return EventStream(chunks=as_chunks(events, lambda event: _sees(sender, run_id, event)))


def _sees(sender: Principal, run_id: UUID, event: Event) -> bool:
    """Return whether a sender that may read a run may see an event of its stream."""
    return event.subject in {run_id, f"flow/{run_id}"} or receives(sender, event)
