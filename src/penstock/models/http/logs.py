"""The logs of models over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from penstock.access.http.keys import sender_of
from penstock.errors import DatabaseUnavailable, InvalidInput, ModelBroken, NotFound, ScopeMissing
from penstock.models.host.logbook import LEVELS, Logbook, Wanted
from penstock.models.http import examples
from penstock.models.http.calls import MAX_REQUEST_ID
from penstock.models.http.parameters import NAME, TAG, reader_of, wants_events
from penstock.models.http.streaming import event
from penstock.models.http.views import Cleared, LogPage
from penstock.models.service import ModelService
from penstock.tenants import scopes
from penstock.web.reading import convert, moment
from penstock.web.request import Request
from penstock.web.response import EventStream, Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a log: which lines it returns."""

    since: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None
    level: Annotated[str, Meta(pattern=rf"^({'|'.join(LEVELS)})$(?!\n)")] | None = None
    request_id: Annotated[str, Meta(max_length=MAX_REQUEST_ID)] | None = None
    version: Annotated[str, Meta(max_length=50)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    follow: bool = False


_LOG_FILTERS: Final = {
    "since": "not before this time",
    "until": "before this time",
    "level": "this level or worse: debug, info, warning, error",
    "request_id": "only lines of this call",
    "version": "only lines of this version",
    "limit": "at most this many, the newest",
    "follow": "continue as lines come",
}


class LogRoutes:
    """The logs of the models of a service."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/models/{name}/logs",
        path_parameters=(NAME,),
        name="modelLogs",
        tag=TAG,
        scope=scopes.MODELS_MANAGE,
        summary="Read the newest lines of a model's log",
        description="With `follow=true`, or `Accept: text/event-stream`, as server-sent events without end.",
        parameters=tuple(
            Parameter(name=field.encode_name, type=field.type, description=_LOG_FILTERS[field.name])
            for field in msgspec.structs.fields(LogQuery)
        ),
        responses={
            200: ResponseSpec(
                description="Lines, oldest first",
                type=LogPage,
                example=examples.LOGS,
                also=("text/event-stream",),
            )
        },
        errors=(InvalidInput, NotFound, ScopeMissing, ModelBroken),
    )
    async def logs(self, request: Request) -> Response | EventStream:
        query = request.query(dict.fromkeys(LogQuery.__struct_fields__, False))
        values: dict[str, Any] = {
            name: moment(value[0], name) if name in {"since", "until"} else value[0] for name, value in query.items()
        }
        wanted = convert(values, LogQuery)
        logbook = self._service.managed(request.path("name"), reader_of(request)).logbook
        which = Wanted(
            since=wanted.since,
            until=wanted.until,
            level=wanted.level,
            request_id=wanted.request_id,
            version=wanted.version,
        )
        if wanted.follow or wants_events(request):
            return EventStream(chunks=_followed(logbook, which, wanted.limit))
        return json_response(LogPage(lines=logbook.newest(which, wanted.limit)))

    @route(
        "DELETE",
        "/api/v1/models/{name}/logs",
        path_parameters=(NAME,),
        name="cleanModelLogs",
        tag=TAG,
        scope=scopes.MODELS_MANAGE,
        summary="Delete the lines of a model's log",
        responses={200: ResponseSpec(description="How many lines there were", type=Cleared, example=examples.CLEARED)},
        errors=(InvalidInput, NotFound, ScopeMissing, ModelBroken, DatabaseUnavailable),
    )
    async def clean_logs(self, request: Request) -> Response:
        request.query({})
        name, reader = request.path("name"), reader_of(request)
        return json_response(Cleared(cleared=await self._service.clean_logs(name, reader, sender=sender_of(request))))


async def _followed(logbook: Logbook, wanted: Wanted, limit: int) -> AsyncIterator[bytes]:
    async for entry in logbook.follow(wanted, limit):
        yield b"id: %d\n" % entry.seq + event("log", entry)
