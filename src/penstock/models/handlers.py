"""What each endpoint of models does: from a request to the host, and back to a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from penstock.errors import InvalidInput, PenstockError
from penstock.models.answers import as_response
from penstock.models.host.calls import CallResult, Listener, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.logbook import LEVELS, Logbook, Wanted
from penstock.models.requests import Input, read_input
from penstock.models.service import ModelService
from penstock.models.streaming import EventFeed, event
from penstock.models.uploads import Load
from penstock.models.views import Cleared, LogPage, ModelPage, summarised, whole
from penstock.web.body import Disconnected
from penstock.web.reading import convert, moment
from penstock.web.request import Request
from penstock.web.response import EventStream, Response, json_response

_BEGIN_SECONDS = 1.0  # that a stream waits for its first event before it is answered with status 200
_LONGEST_REQUEST_ID = 200

Describe = Callable[[PenstockError], Any]  # how the API tells an error
_stated: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lines of a log."""

    since: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None
    level: Annotated[str, Meta(pattern=f"^({'|'.join(LEVELS)})$")] | None = None
    request_id: Annotated[str, Meta(max_length=_LONGEST_REQUEST_ID)] | None = None
    version: Annotated[str, Meta(max_length=50)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    follow: bool = False


class ModelHandlers:
    """The endpoints, on a service. ``describe`` says how an error within a stream is told."""

    def __init__(self, service: ModelService, *, describe: Describe, max_call_bytes: int, load: Load) -> None:
        self.max_call_bytes = max_call_bytes
        self.service = service
        self._host = service.host
        self._describe = describe
        self._load = load

    # Calling

    async def predict(self, request: Request) -> Response | EventStream:
        if "text/event-stream" in (request.header(b"accept") or ""):
            return await self.stream(request)
        query = request.query({"version": False}) if request.query_string else {}
        deployment = await self._deployment(request.path("name"), query)
        given = await read_input(request, deployment, self._load)
        request_id = _request_id(request)
        live = self._host.call(deployment, given.json, given.segments, request_id=request_id)
        return as_response(request, await answered(request, live), request_id)

    async def stream(self, request: Request) -> Response | EventStream:
        query = request.query({"version": False, "logs": False})
        logs = _flag(query, "logs")
        deployment = await self._deployment(request.path("name"), query)
        given = await read_input(request, deployment, self._load)
        feed = EventFeed(logs=logs)
        feed.call = live = self._begin(deployment, given, _request_id(request), feed)
        try:
            await feed.begun(_BEGIN_SECONDS)
        except BaseException:
            live.close()
            raise
        return EventStream(chunks=feed.events(self._describe), endless=False)

    def _begin(self, deployment: Deployment, given: Input, request_id: str, listener: Listener) -> LiveCall:
        return self._host.call(
            deployment, given.json, given.segments, request_id=request_id, streams=True, listener=listener
        )

    async def _deployment(self, name: str, query: dict[str, list[str]]) -> Deployment:
        deployment = self.service.find(name, query["version"][0] if "version" in query else None)
        if deployment.schema is None:
            await deployment.describe()
        return deployment

    # Looking

    async def list_models(self, request: Request) -> Response:
        request.query({})
        entries = sorted(self._host.entries.values(), key=lambda entry: entry.name)
        return json_response(ModelPage(models=[summarised(entry) for entry in entries], problems=self.service.problems))

    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(whole(self.service.entry(request.path("name"))))

    async def logs(self, request: Request) -> Response | EventStream:
        query = request.query(dict.fromkeys(LogQuery.__struct_fields__, False))
        values: dict[str, Any] = {
            name: moment(value[0], name) if name in {"since", "until"} else value[0] for name, value in query.items()
        }
        wanted = convert(values, LogQuery)
        logbook = self.service.entry(request.path("name")).logbook
        which = Wanted(
            since=wanted.since,
            until=wanted.until,
            level=wanted.level,
            request_id=wanted.request_id,
            version=wanted.version,
        )
        if wanted.follow or "text/event-stream" in (request.header(b"accept") or ""):
            return EventStream(chunks=_followed(logbook, which, wanted.limit))
        return json_response(LogPage(lines=logbook.newest(which, wanted.limit)))

    async def clean_logs(self, request: Request) -> Response:
        request.query({})
        return json_response(Cleared(cleared=self.service.entry(request.path("name")).logbook.clear()))

    # Changing

    async def add(self, request: Request) -> Response:
        query = request.query({"replace": False})
        stated: dict[str, Any] = await request.read(_stated)
        deployment = await self.service.add(stated, replace=_flag(query, "replace"))
        name = deployment.model.name
        return json_response(whole(self.service.entry(name)), 201, [(b"location", f"/api/v1/models/{name}".encode())])

    async def remove(self, request: Request) -> Response:
        query = request.query({"version": False})
        await self.service.remove(request.path("name"), query["version"][0] if "version" in query else None)
        return Response(status=204)

    async def reload(self, request: Request) -> Response:
        query = request.query({"version": False})
        name = request.path("name")
        await self.service.reload(name, query["version"][0] if "version" in query else None)
        return json_response(whole(self.service.entry(name)))


async def answered(request: Request, live: LiveCall) -> CallResult:
    """Return how the call ended; it is given up when the client leaves. Raises what ended it, or Disconnected."""
    with request.left.calling(live.close):
        try:
            return await live.done
        except asyncio.CancelledError:
            live.close()
            if request.left.is_set():
                raise Disconnected from None
            raise


async def _followed(logbook: Logbook, wanted: Wanted, limit: int) -> AsyncIterator[bytes]:
    async for entry in logbook.follow(wanted, limit):
        yield b"id: %d\n" % entry.seq + event("log", entry)


def _flag(query: dict[str, list[str]], name: str) -> bool:
    value = query.get(name, ["false"])[0].lower()
    if value not in {"true", "false", "1", "0"}:
        raise InvalidInput.of(name, "must be true or false")
    return value in {"true", "1"}


def _request_id(request: Request) -> str:
    stated = request.header(b"x-request-id")
    return stated[:_LONGEST_REQUEST_ID] if stated else uuid4().hex
