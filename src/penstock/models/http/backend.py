"""The interface of the AI Backend document: ``/{get|post}/{operation}?id=…`` by GET or POST, with its own error bodies.

Where the document specifies nothing, this follows the second branch of the original: a missing or unknown id gets
status 400 and ``{"content": …}``, a failure ``{"error": …}``. Queries are parsed leniently, as the document's own
examples require: a second ``?`` counts as ``&``, and quotes around values are removed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_plus
from uuid import uuid4

import msgspec

from penstock.access.http.keys import sender_of
from penstock.blobs.uploads import Uploads
from penstock.errors import (
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    PenstockError,
    PriceMissing,
    QuotaExceeded,
)
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.logbook import Wanted
from penstock.models.http.calls import result_of
from penstock.models.http.limited import MeteredCall
from penstock.models.http.metering import Metering
from penstock.models.http.parameters import reader_of
from penstock.models.http.requests import read_input
from penstock.models.http.responses import as_response
from penstock.models.reader import Reader
from penstock.models.result_files import ResultFiles
from penstock.models.service import ModelService
from penstock.quotas.admission import Quotas
from penstock.tenants import scopes
from penstock.web import problems
from penstock.web.request import Request
from penstock.web.response import AnyResponse, ByteStream, Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

OPERATIONS = ("predict", "getlogs", "cleanlogs", "addmodel")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_LINES = 10_000
_OPERATION = PathParameter(name="operation", description=f"one of {', '.join(OPERATIONS)}")
_CONTENT = {"content": "id is not registered: 7"}
_FAILURES = (409, 413, 415, 422, 500, 502, 503, 504)

_json = msgspec.json.Decoder(dict[str, Any])


Handler = Callable[["BackendRoutes", Request], Awaitable[AnyResponse]]


def _interface(method: str, path: str) -> Callable[[Handler], Handler]:
    """Declare a handler of the interface."""
    name = "".join(part.capitalize() for part in path.replace("{", "").replace("}", "").split("/"))
    return route(
        method,
        path,
        name=f"backend{method.capitalize()}{name}",
        tag="AI Backend",
        summary="Call or add a model, or read or clean its log: the interface of the AI Backend document",
        description=(
            "Operations: predict, getlogs, cleanlogs, addmodel (`&type=httpmodel&dest=host:port`). All except predict "
            "need the scope `models:manage` too."
        ),
        path_parameters=(_OPERATION,) if "{operation}" in path else (),
        parameters=(
            Parameter(name="id", type=str, description="the model's name"),
            Parameter(name="type", type=str, description="of addmodel: HttpModel or SubprocessModel"),
            Parameter(name="dest", type=str, description="of addmodel: the address of the model's server"),
        ),
        responses={
            200: ResponseSpec(description="The model's output, or the log", type=Any, example={"answer": "42"}),
            400: ResponseSpec(description="No such id", type=dict[str, str], example=_CONTENT),
            404: ResponseSpec(description="No such operation", type=dict[str, str], example=_CONTENT),
        }
        | {
            status: ResponseSpec(description="It failed", type=dict[str, str], example={"error": "why it failed"})
            for status in _FAILURES
        },
        errors=(QuotaExceeded, PriceMissing, Forbidden),
        scope=scopes.MODELS_CALL,
        max_body_bytes=lambda routes: routes.max_call_bytes,
    )


class BackendRoutes:
    """The interface to the models of a service."""

    def __init__(
        self, service: ModelService, *, max_call_bytes: int, uploads: Uploads, metering: Metering, quotas: Quotas
    ) -> None:
        self._service = service
        self._quotas = quotas
        self.max_call_bytes = max_call_bytes
        self._uploads = uploads
        self._files = ResultFiles(blobs=uploads.blobs)
        self._metering = metering

    @_interface("GET", "/get/{operation}")
    @_interface("POST", "/get/{operation}")
    @_interface("GET", "/post/{operation}")
    @_interface("POST", "/post/{operation}")
    async def operate(self, request: Request) -> AnyResponse:
        return await self._operate(request, request.path("operation").lower())

    # The original's first branch had no operations in its paths.

    @_interface("GET", "/get")
    @_interface("POST", "/get")
    async def get_logs(self, request: Request) -> AnyResponse:
        return await self._operate(request, "getlogs")

    @_interface("GET", "/post")
    @_interface("POST", "/post")
    async def predict(self, request: Request) -> AnyResponse:
        return await self._operate(request, "predict")

    async def _operate(self, request: Request, operation: str) -> AnyResponse:
        query = lenient_query(request.query_string)
        if operation not in OPERATIONS:
            return _content(404, f"Unknown operation: {operation[:100]}. There are: {', '.join(OPERATIONS)}")
        if operation != "predict":
            request.principal.require(scopes.MODELS_MANAGE)
        try:
            if operation == "addmodel":
                return await self._add(request, query)
            deployment = self._deployment(query, reader_of(request))
            match operation:
                case "getlogs":
                    logbook = self._service.managed(deployment.model.name, reader_of(request)).logbook
                    return json_response({"logs": logbook.newest(Wanted(), _MAX_LINES)})
                case "cleanlogs":
                    name, reader = deployment.model.name, reader_of(request)
                    cleared = await self._service.clean_logs(name, reader, sender=sender_of(request))
                    return json_response({"logs": [], "cleared": cleared})
                case _:
                    return await self._predict(request, deployment)
        except _UnknownId as error:
            return _content(400, str(error))
        except QuotaExceeded:
            raise
        except PenstockError as error:
            return _failed(error)

    async def _predict(self, request: Request, deployment: Deployment) -> AnyResponse:
        try:
            if deployment.schema is None:
                await deployment.describe()
            given = await read_input(request, deployment, self._uploads)
        except ModelUnavailable as error:
            return _unavailable(deployment, error)
        request_id = request.header(b"x-request-id") or uuid4().hex

        call = MeteredCall(
            quotas=self._quotas, metering=self._metering, request=request, deployment=deployment, given=given
        )

        def begin(json: bytes) -> LiveCall:
            return self._service.host.call(
                deployment, json, given.segments, request_id=request_id, tenant=request.principal.tenant
            )

        async def respond() -> Response | ByteStream:
            try:
                result = await result_of(request, call.begin(begin))
                return await as_response(request, result, request_id, self._files)
            except ModelUnavailable as error:
                return _unavailable(deployment, error)
            except PenstockError as error:
                return _failed(error)

        return await call.within_quotas(respond)

    def _deployment(self, query: Mapping[str, str], reader: Reader) -> Deployment:
        name = _id(query)
        try:
            return self._service.find(name, reader=reader)
        except NotFound:
            raise _UnknownId(f"id is not registered: {name}") from None

    async def _add(self, request: Request, query: Mapping[str, str]) -> Response:
        body = await request.content()
        try:
            stated: dict[str, Any] = _json.decode(body) if body.strip() else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidInput.of("body", "must be a JSON object, or empty") from None
        stated |= query
        name = _id({key: value for key, value in stated.items() if isinstance(value, str)})
        kind = str(stated.get("type", "httpmodel")).lower()
        if kind == "httpmodel":
            destination = str(stated.get("dest") or stated.get("destination") or "")
            if not destination:
                raise InvalidInput.of("dest", "is required: the address of the model's server, such as 127.0.0.1:8888")
            url = destination if "://" in destination else f"http://{destination}"
            wanted: dict[str, Any] = {"name": name, "runtime": "http", "http": {"url": url}}
        elif kind == "subprocessmodel":  # a caller only names the model; its command is in the operator's folder
            wanted = {"name": name}
        else:
            raise InvalidInput.of("type", "must be HttpModel or SubprocessModel")
        deployment = await self._service.add(wanted, reader=reader_of(request), sender=sender_of(request))
        return json_response(
            {"id": deployment.model.name, "type": deployment.model.manifest.runtime, "content": "model added"}
        )


class _UnknownId(Exception):
    """No model has the id. The message is worded as in the original."""


def _failed(error: PenstockError) -> Response:
    return json_response({"error": error.message}, problems.describe(error).status)


def _unavailable(deployment: Deployment, error: ModelUnavailable) -> Response:
    name = deployment.model.name
    message = f"Model is not ready. Model {name} with id {name} is down: {error.message}"
    return json_response({"error": message}, problems.describe(error).status)


def _id(query: Mapping[str, str]) -> str:
    name = query.get("id", "")
    if not name:
        raise _UnknownId("No model with matching id. Given id is empty: ")
    if not _NAME.fullmatch(name):
        raise _UnknownId(f"Not an id: {name[:200]}")
    return name


def lenient_query(raw: bytes) -> dict[str, str]:
    """Parse a query in the document's form, ``id=x?type=httpmodel?dest="127.0.0.1:8888"``. Of repeated names the first
    counts."""
    found: dict[str, str] = {}
    for pair in raw.decode("latin-1").replace("?", "&").split("&")[:100]:
        name, _, value = pair.partition("=")
        if name:
            found.setdefault(unquote_plus(name).lower(), unquote_plus(value, errors="replace").strip().strip("\"'“”"))
    return found


def _content(status: int, content: str) -> Response:
    return json_response({"content": content}, status)
