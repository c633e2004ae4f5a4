"""Jobs that run on models: ``task_type`` predict, ``model_profile`` the model's name.

The models are this process's own, or a gateway's: one machine should load a model once. Their chunks, progress and log
lines become the job's events. The worker offers whatever models there are, as they come and go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from msgspec import Raw, Struct

from penstock.errors import (
    PenstockError,
)
from penstock.event_stream import events_of
from penstock.failures import CallFailed, Category, category_of, failure_of
from penstock.jobs.job import ClaimedJob
from penstock.models.host.calls import LiveCall
from penstock.models.inputs import from_json
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment
from penstock.models.service import ModelService
from penstock.models.uploads import Load
from penstock.telemetry import logs
from penstock.work.context import JobContext
from penstock.work.executors import Executors, Offer

log = logs.get(__name__)

TASK_TYPE: Final = "predict"
_LOOK_EVERY: Final = 2.0  # seconds between looks which models a gateway has
_SOON: Final = timedelta(seconds=1)  # until a job is tried again whose gateway or model was busy or away


class Models(Protocol):
    """Models that jobs can run on."""

    async def names(self) -> AsyncIterator[Mapping[str, int]]:
        """How many calls each model can work on at a time, by name: now, and again after every change."""
        ...
        yield {}

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        """One job's result. Raises CallFailed."""
        ...


async def offer(models: Models, executors: Executors) -> None:
    """Keep the executors in step with the models there are, without end."""
    offers: dict[str, tuple[int, Offer]] = {}
    while True:
        try:
            await _follow(models, executors, offers)
        except Exception:  # the loop outlives what nobody foresaw: a worker without its models looks well and is not
            log.exception("models_not_offered")
        await asyncio.sleep(_LOOK_EVERY)


async def _follow(models: Models, executors: Executors, offers: dict[str, tuple[int, Offer]]) -> None:
    async for places in models.names():
        for name in list(offers):
            if offers[name][0] != places.get(name):
                executors.remove(offers.pop(name)[1])
        for name in places.keys() - offers.keys():
            # Twice as many as the model works on: the next ones wait at it, not in the database.
            made = executors.add(
                _executor(models, name), task_types=[TASK_TYPE], model_profiles=[name], limit=2 * places[name]
            )
            offers[name] = (places[name], made)


def _executor(models: Models, name: str) -> Any:
    async def run(job: ClaimedJob, context: JobContext, /) -> object:
        return Raw(await models.predict(name, job, context))

    return run


class HostedModels:
    """The models of this process."""

    def __init__(self, service: ModelService, load: Load) -> None:
        self._service = service
        self._host = service.host
        self._load = load

    async def names(self) -> AsyncIterator[Mapping[str, int]]:
        while True:
            self._host.changed.clear()
            yield {name: entry.versions[entry.default].places for name, entry in self._host.entries.items()}
            await self._host.changed.wait()

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        told = _Told(context)
        try:
            deployment = self._service.find(name)
            if deployment.schema is None:
                await deployment.describe()
            given = await from_json(bytes(job.input), deployment, self._load)
            told.call = live = self._host.call(
                deployment,
                given.json,
                given.segments,
                request_id=_request_id(job),
                streams=True,
                collects=True,
                listener=told,
            )
            try:
                done = await live.done
            finally:
                live.close()
            return inlined(done.json, done.segments)
        except PenstockError as error:
            raise _failure(error) from error
        finally:
            told.close()


class _Told:
    """Hands what a call tells to its job, and holds the model back while too much of that is unsent."""

    def __init__(self, context: JobContext) -> None:
        self.call: LiveCall | None = None
        self._context = context
        self._holding: asyncio.Task[None] | None = None

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        try:
            self._context.chunk(Raw(inlined(json, segments)))
        except ValueError as error:  # larger than an event may be; the result has it all the same
            self._context.log(f"a chunk is told in the result only: {error}", "warning")
        if self.call is None or self._holding is not None:
            return
        if self._context.crowded:
            self._holding = asyncio.get_running_loop().create_task(self._hold(self.call))
        else:
            self.call.consume(self.call.unread)

    def progress(self, json: bytes) -> None:
        with suppress(ValueError):
            self._context.progress(Raw(json))

    def log(self, level: str, message: str) -> None:
        self._context.log(message, level)

    def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    async def _hold(self, call: LiveCall) -> None:
        await self._context.room()
        self._holding = None
        call.consume(call.unread)


def _request_id(job: ClaimedJob) -> str:
    return f"{job.id}-{job.epoch}"


def _failure(error: PenstockError) -> CallFailed:
    """What the model's error is to the job. A model that is busy, or away, is tried again soon."""
    failure = failure_of(error)
    if failure.category is Category.RATE_LIMITED and failure.retry_after is None:
        failure.retry_after = _SOON
    return failure


class _Listed(Struct):
    class Model(Struct):
        name: str
        places: int

    models: list[Model]


class _Problem(Struct):
    code: str = ""
    detail: str = ""


class GatewayModels:
    """The models of a gateway, called over HTTP. While it is away jobs wait without losing attempts."""

    def __init__(self, url: str, *, token: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def names(self) -> AsyncIterator[Mapping[str, int]]:
        known: Mapping[str, int] | None = None
        while True:
            try:
                async with self._connected().get(f"{self._url}/api/v1/models") as reply:
                    reply.raise_for_status()
                    listed = msgspec.json.decode(await reply.read(), type=_Listed)
                found = {model.name: model.places for model in listed.models}
                if found != known:
                    known = found
                    yield found
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
                log.debug("models_not_listed", reason=type(error).__name__)  # it keeps what it knew
            await asyncio.sleep(_LOOK_EVERY)

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        headers = {"Content-Type": "application/json", "X-Request-ID": _request_id(job)}
        url = f"{self._url}/api/v1/models/{name}/stream?logs=true"
        try:
            async with self._connected().post(url, data=bytes(job.input), headers=headers) as reply:
                if reply.status != 200:
                    wait = reply.headers.get("Retry-After", "")
                    raise _refused(await reply.read(), float(wait) if wait.isdigit() else None)
                return await self._follow(reply, context)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            message = f"the gateway that runs the model is away ({type(error).__name__})"
            raise CallFailed(Category.RATE_LIMITED, message, retry_after=_SOON) from None

    async def _follow(self, reply: aiohttp.ClientResponse, context: JobContext) -> bytes:
        """Read events to the end; answers the result."""
        chunks: list[bytes] = []
        async for event in events_of(reply.content.iter_any()):
            data = event.data
            match event.name:
                case "chunk":
                    chunks.append(data)
                    try:
                        context.chunk(Raw(data))
                    except ValueError as error:
                        context.log(f"a chunk is told in the result only: {error}", "warning")
                    await context.room()
                case "progress":
                    with suppress(ValueError):
                        context.progress(Raw(data))
                case "log":
                    line = msgspec.json.decode(data)
                    context.log(line["message"], line["level"])
                case "error":
                    raise _refused(data, None)
                case "done":
                    done = msgspec.json.decode(data, type=dict[str, Raw])
                    return bytes(done["output"]) if "output" in done else b"[" + b",".join(chunks) + b"]"
        raise aiohttp.ClientPayloadError("the stream ended before the call did")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=2**20,
            )
        return self._session


def _refused(body: bytes, retry_after: float | None) -> CallFailed:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem(detail="the gateway answered unexpectedly")
    category = category_of(problem.code)
    if category is Category.BAD_INPUT:
        return CallFailed(category, problem.detail, field="input")
    wait = timedelta(seconds=retry_after or 1) if category is Category.RATE_LIMITED else None
    return CallFailed(category, problem.detail, retry_after=wait)
