"""What each endpoint of models does: from a call to the host, and back to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from penstock.errors import InvalidInput, PenstockError
from penstock.models.answers import as_answer
from penstock.models.host.calls import Answered, Listener, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.logbook import LEVELS, Logbook, Wanted
from penstock.models.requests import Input, read_input
from penstock.models.service import ModelService
from penstock.models.streaming import EventFeed, event
from penstock.models.uploads import Load
from penstock.models.views import Cleared, LogPage, ModelPage, summarised, whole
from penstock.web.call import Answer, Call, Disconnected, EventStream, answer
from penstock.web.reading import convert, moment

_BEGIN_SECONDS = 1.0  # that a stream waits for its first event before it is answered with status 200
_LOOK_AWAY_SECONDS = 0.02  # a call that is answered sooner is not watched for a caller who leaves
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

    async def predict(self, call: Call) -> Answer | EventStream:
        if "text/event-stream" in (call.header(b"accept") or ""):
            return await self.stream(call)
        query = call.query({"version": False}) if call.query_string else {}
        deployment = await self._deployment(call.path("name"), query)
        given = await read_input(call, deployment, self._load)
        request_id = _request_id(call)
        live = self._host.call(deployment, given.json, given.segments, request_id=request_id)
        return as_answer(call, await answered(call, live), request_id)

    async def stream(self, call: Call) -> Answer | EventStream:
        query = call.query({"version": False, "logs": False})
        logs = _flag(query, "logs")
        deployment = await self._deployment(call.path("name"), query)
        given = await read_input(call, deployment, self._load)
        feed = EventFeed(logs=logs)
        feed.call = live = self._begin(deployment, given, _request_id(call), feed)
        try:
            await feed.begun(_BEGIN_SECONDS)
        except BaseException:
            live.abandon()
            raise
        return EventStream(chunks=feed.events(self._describe), endless=False)

    def _begin(self, deployment: Deployment, given: Input, request_id: str, listener: Listener) -> LiveCall:
        return self._host.call(
            deployment, given.json, given.segments, request_id=request_id, streams=True, listener=listener
        )

    async def _deployment(self, name: str, query: dict[str, list[str]]) -> Deployment:
        deployment = self._host.find(name, query["version"][0] if "version" in query else None)
        if deployment.schema is None:
            await deployment.describe()
        return deployment

    # Looking

    async def list_models(self, call: Call) -> Answer:
        call.query({})
        entries = sorted(self._host.entries.values(), key=lambda entry: entry.name)
        return answer(ModelPage(models=[summarised(entry) for entry in entries], problems=self.service.problems))

    async def get(self, call: Call) -> Answer:
        call.query({})
        return answer(whole(self.service.entry(call.path("name"))))

    async def logs(self, call: Call) -> Answer | EventStream:
        query = call.query(dict.fromkeys(LogQuery.__struct_fields__, False))
        values: dict[str, Any] = {
            name: moment(value[0], name) if name in {"since", "until"} else value[0] for name, value in query.items()
        }
        wanted = convert(values, LogQuery)
        logbook = self.service.entry(call.path("name")).logbook
        which = Wanted(
            since=wanted.since,
            until=wanted.until,
            level=wanted.level,
            request_id=wanted.request_id,
            version=wanted.version,
        )
        if wanted.follow or "text/event-stream" in (call.header(b"accept") or ""):
            return EventStream(chunks=_followed(logbook, which, wanted.limit))
        return answer(LogPage(lines=logbook.newest(which, wanted.limit)))

    async def clean_logs(self, call: Call) -> Answer:
        call.query({})
        return answer(Cleared(cleared=self.service.entry(call.path("name")).logbook.clear()))

    # Changing

    async def add(self, call: Call) -> Answer:
        query = call.query({"replace": False})
        stated: dict[str, Any] = await call.read(_stated)
        deployment = await self.service.add(stated, replace=_flag(query, "replace"))
        name = deployment.model.name
        return answer(whole(self.service.entry(name)), 201, [(b"location", f"/api/v1/models/{name}".encode())])

    async def remove(self, call: Call) -> Answer:
        query = call.query({"version": False})
        await self.service.remove(call.path("name"), query["version"][0] if "version" in query else None)
        return Answer(status=204)

    async def reload(self, call: Call) -> Answer:
        query = call.query({"version": False})
        name = call.path("name")
        await self.service.reload(name, query["version"][0] if "version" in query else None)
        return answer(whole(self.service.entry(name)))


async def answered(call: Call, live: LiveCall) -> Answered:
    """The call's end; a caller who leaves meanwhile abandons it. Raises what ended it, or Disconnected."""
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []

    def look() -> None:
        watch.append(loop.create_task(_abandon_when_left(call, live)))

    timer = loop.call_later(_LOOK_AWAY_SECONDS, look)
    try:
        return await live.done
    except asyncio.CancelledError:
        live.abandon()
        if watch and watch[0].done():
            raise Disconnected from None
        raise
    finally:
        timer.cancel()
        if watch:
            watch[0].cancel()


async def _abandon_when_left(call: Call, live: LiveCall) -> None:
    await call.disconnected()
    live.abandon()


async def _followed(logbook: Logbook, wanted: Wanted, limit: int) -> AsyncIterator[bytes]:
    async for entry in logbook.follow(wanted, limit):
        yield b"id: %d\n" % entry.seq + event("log", entry)


def _flag(query: dict[str, list[str]], name: str) -> bool:
    value = query.get(name, ["false"])[0].lower()
    if value not in {"true", "false", "1", "0"}:
        raise InvalidInput.of(name, "must be true or false")
    return value in {"true", "1"}


def _request_id(call: Call) -> str:
    stated = call.header(b"x-request-id")
    return stated[:_LONGEST_REQUEST_ID] if stated else uuid4().hex
