"""Calls of models: ``/predict`` and ``/stream``."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from random import getrandbits
from typing import Any, Final

from penstock.blobs.uploads import Uploads
from penstock.errors import (
    DatabaseUnavailable,
    Forbidden,
    ModelBroken,
    ModelCrashed,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PoisonInput,
    PriceMissing,
    ProviderFailed,
    QuotaExceeded,
    Unauthorized,
)
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.http import examples
from penstock.models.http.limited import MeteredCall
from penstock.models.http.metering import Metering, of_a_job
from penstock.models.http.parameters import NAME, TAG, VERSION, flag, reader_of, version_of, wants_events
from penstock.models.http.requests import read_input
from penstock.models.http.responses import as_response
from penstock.models.http.streaming import EventFeed
from penstock.models.inputs import Input
from penstock.models.result_files import ForJob, ResultFiles
from penstock.models.service import ModelService
from penstock.quotas.admission import Quotas
from penstock.tenants import scopes
from penstock.web import problems
from penstock.web.body import Disconnected
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Response
from penstock.web.route import Parameter, ResponseSpec, route

MAX_REQUEST_ID: Final = 200  # characters
_BEGIN_SECONDS: Final = 1.0  # the wait for a stream's first event before the response begins with status 200
_ERRORS: Final = (
    *BODY_ERRORS, NotFound, PoisonInput, Overloaded, ModelFailed, ModelCrashed, ModelTimeout, ModelUnavailable,
    ModelBroken, ProviderFailed, QuotaExceeded, PriceMissing, Forbidden, DatabaseUnavailable,
)  # fmt: skip
_OF_AN_ATTEMPT: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9]{1,18})")
_REQUEST_ID: Final = Parameter(
    name="X-Request-ID",
    type=str,
    description="is repeated in the response, and marks the lines of the log",
    place="header",
)
_LOGS: Final = Parameter(name="logs", type=bool, description="send the call's log lines too, as events `log`")
_CALLING: Final = """The body is the model's input as JSON, `multipart/form-data` with media as files (and other fields
as text, or as one JSON object in the part `input`), or, where the model takes one file, its bytes. Media in JSON are
`data:` URLs. It is checked against the model's schema; a mistake gets 422 and names the field."""


class CallRoutes:
    """Calls of the models of a service."""

    def __init__(
        self, service: ModelService, *, max_call_bytes: int, uploads: Uploads, metering: Metering, quotas: Quotas
    ) -> None:
        self._service = service
        self._quotas = quotas
        self.max_call_bytes = max_call_bytes
        self._uploads = uploads
        self._files = ResultFiles(blobs=uploads.blobs)
        self._metering = metering

    @route(
        "POST",
        "/api/v1/models/{name}/predict",
        path_parameters=(NAME,),
        name="predict",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="Call a model and get its output",
        description=_CALLING + " The response is the output as JSON, or its bytes where the output is one file. "
        "A model that streams returns the list of its chunks. `Accept: text/event-stream` streams as `/stream` does.",
        request=dict[str, Any],
        request_example=examples.INPUT,
        takes_media=True,
        parameters=(VERSION, _REQUEST_ID),
        responses={
            200: ResponseSpec(
                description="The output",
                type=Any,
                example=examples.OUTPUT,
                also=("text/event-stream", "application/octet-stream", "image/*", "audio/*"),
            )
        },
        errors=_ERRORS,
        max_body_bytes=lambda routes: routes.max_call_bytes,
    )
    async def predict(self, request: Request) -> Response | ByteStream | EventStream:
        if wants_events(request):
            return await self.stream(request)
        query = request.query({"version": False}) if request.query_string else {}
        deployment = await self._deployment(request, version_of(query))
        given = await read_input(request, deployment, self._uploads)
        request_id = _request_id(request)

        call = self._metered(request, deployment, given)

        def begin(json: bytes) -> LiveCall:
            return self._service.host.call(
                deployment, json, given.segments, request_id=request_id, tenant=request.principal.tenant
            )

        async def respond() -> Response | ByteStream:
            return await as_response(request, await result_of(request, call.begin(begin)), request_id, self._files)

        return await call.within_quotas(respond)

    @route(
        "POST",
        "/api/v1/models/{name}/stream",
        path_parameters=(NAME,),
        name="stream",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="Call a model and receive its chunks as they come",
        description=_CALLING + " Server-sent events: `chunk` and `progress` with the value as data, at the end `done` "
        "(with `output` where that was not sent as chunks) or `error` with a problem.",
        request=dict[str, Any],
        request_example=examples.INPUT,
        takes_media=True,
        parameters=(VERSION, _REQUEST_ID, _LOGS),
        responses={200: ResponseSpec(description="Events", type=str, media_type="text/event-stream")},
        errors=_ERRORS,
        max_body_bytes=lambda routes: routes.max_call_bytes,
    )
    async def stream(self, request: Request) -> Response | ByteStream | EventStream:
        query = request.query({"version": False, "logs": False})
        logs = flag(query, "logs")
        deployment = await self._deployment(request, version_of(query))
        given = await read_input(request, deployment, self._uploads)
        feed = EventFeed(logs=logs, problem=problems.describe, keep=partial(self._kept, request))

        call = self._metered(request, deployment, given)

        def begin(json: bytes) -> LiveCall:
            return self._service.host.call(
                deployment,
                json,
                given.segments,
                request_id=_request_id(request),
                streams=True,
                listener=feed,
                tenant=request.principal.tenant,
            )

        async def respond() -> EventStream:
            feed.call = live = call.begin(begin)
            try:
                first = await feed.begun(_BEGIN_SECONDS)
            except BaseException:
                live.close()
                raise
            return EventStream(chunks=feed, begin=first, endless=False)

        return await call.within_quotas(respond)

    async def _kept(self, request: Request, result: CallResult) -> CallResult:
        attempt = attempt_of(request) if of_a_job(request) else None
        return await self._files.kept(result, request.principal.tenant, attempt)

    def _metered(self, request: Request, deployment: Deployment, given: Input) -> MeteredCall:
        return MeteredCall(
            quotas=self._quotas, metering=self._metering, request=request, deployment=deployment, given=given
        )

    async def _deployment(self, request: Request, version: str | None) -> Deployment:
        deployment = self._service.find(request.path("name"), version, reader_of(request))
        if deployment.schema is None:
            await deployment.describe()
        return deployment


async def result_of(request: Request, live: LiveCall) -> CallResult:
    """Return the call's result; cancel the call when the client leaves or its key is revoked.

    Raises the call's error, Disconnected or Unauthorized.
    """
    close, left = live.close, request.left
    left.add(close)
    try:
        with request.while_allowed(close):
            return await live.done
    except asyncio.CancelledError:
        close()
        if left.is_set():
            raise Disconnected from None
        if request.withdrawn:
            raise Unauthorized(request.withdrawn) from None
        raise
    finally:
        left.remove(close)


def attempt_of(request: Request) -> ForJob | None:
    """Return the attempt of a job for which a worker calls the model, by the id of its request."""
    found = _OF_AN_ATTEMPT.fullmatch(request.header(b"x-request-id") or "")
    return None if found is None else ForJob(job=found[1], epoch=int(found[2]))


def _request_id(request: Request) -> str:
    stated = request.header(b"x-request-id")
    return stated[:MAX_REQUEST_ID] if stated else f"{getrandbits(128):032x}"
