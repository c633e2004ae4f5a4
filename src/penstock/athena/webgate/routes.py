"""The routes of services: calls by POST, WebSockets by GET."""

from __future__ import annotations

from typing import Any, Final

from penstock.athena.credentials.http import TAG
from penstock.athena.webgate.addresses import Addresses
from penstock.athena.webgate.once import OnceCalls
from penstock.athena.webgate.streaming.websockets import WebSockets
from penstock.web.problems import PROBLEM_JSON, Problem
from penstock.web.request import Request
from penstock.web.response import AnyResponse
from penstock.web.route import Fallback, Parameter, PathParameter, ResponseSpec, Route, route

PATH: Final = "/{version}/private/{serviceId}"
_VERSION: Final = PathParameter(
    name="version", description="a version of the model, with or without `v`; any other means the newest"
)
_SERVICE: Final = PathParameter(name="serviceId", description="the name of the model")
_REQUEST: Final = {
    "header": {"app_id": "scanner", "uid": "ada", "status": 3},
    "parameter": {"ocr": {"lang": "en", "boxes": {"encoding": "utf8", "format": "json"}}},
    "payload": {"img": {"image": "iVBORw0KGgo=", "encoding": "png", "status": 3}},
}
_SUCCESS: Final = {
    "header": {"code": 0, "message": "success", "sid": "ase0007002a@dx19ad3cf0a11000080802", "status": 3},
    "payload": {"boxes": {"encoding": "utf8", "format": "json", "status": 3, "text": [[0, 0, 9, 9]]}},
}
_TASK: Final = {
    "header": {
        "task_id": "01990000-0000-7000-8000-000000000007",
        "task_status": "2",
        "code": 0,
        "message": "success",
        "sid": "ase0007002a@dx19ad3cf0a11000080802",
        "status": 3,
    }
}
_FAILURE: Final = {
    "header": {
        "code": 10163,
        "message": "parameter schema validate error: parameter.ocr.lang: must be one of en, zh",
        "sid": "ase0007002b@dx19ad3cf0a11000080802",
    }
}
_NO_HANDSHAKE: Final = {
    "type": "urn:penstock:problem:upgrade_required",
    "title": "This path is a WebSocket",
    "status": 426,
    "code": "upgrade_required",
    "detail": "open a WebSocket here: send Connection: Upgrade and Upgrade: websocket",
}
_UNAUTHORIZED: Final = ResponseSpec(
    description="Not authenticated", type=dict[str, str], example={"message": "HMAC signature does not match"}
)
_PARAMETERS: Final = tuple(
    Parameter(name=name, type=str, description=description)
    for name, description in (
        ("authorization", "the signature, in base64: api_key, algorithm, headers, signature"),
        ("host", "the signed host"),
        ("date", "the signed time, as in RFC 1123"),
        ("access_token", "in place of a signature"),
        ("serviceId", "a service other than that of the path"),
    )
)
_OF_SESSIONS: Final = (
    Parameter(name="stream_mode", type=str, description="`multiplex`: several sessions, each with a `header.cid`"),
    Parameter(
        name="enable_retry", type=str, description="`true`: keep sessions for a retry when the connection is cut"
    ),
)


class WebGateRoutes:
    """Services over HTTP."""

    def __init__(self, calls: OnceCalls, websockets: WebSockets, addresses: Addresses, *, max_body_bytes: int) -> None:
        self._calls = calls
        self._websockets = websockets
        self._addresses = addresses
        self.max_body_bytes = max_body_bytes

    @property
    def fallback(self) -> Fallback:
        """The same routes at the other addresses of services."""
        return Fallback(
            serves=self._addresses.may_serve,
            routes=[
                Route(
                    method=method,
                    path="/{route of a service}",
                    handler=handler,
                    name=name,
                    summary="Call a service at the route that its schema states",
                    tag=TAG,
                    responses={},
                    open=True,
                    max_body_bytes=self.max_body_bytes,
                )
                for method, name, handler in (("POST", "callRoute", self.call), ("GET", "openRoute", self.connect))
            ],
        )

    @route(
        "POST",
        PATH,
        name="callService",
        tag=TAG,
        open=True,
        summary="Call a service of Athena's protocol",
        description=(
            "Any model is a service. Requests are signed with `api_key` and `api_secret`, or carry a key or access "
            "token as `Authorization: Bearer`. The same address is served at the routes that schemas of engines state."
        ),
        request=dict[str, Any],
        path_parameters=(_VERSION, _SERVICE),
        parameters=_PARAMETERS,
        responses={
            200: ResponseSpec(description="The results", type=dict[str, Any], example=_SUCCESS),
            400: ResponseSpec(description="A field breaks a rule", type=dict[str, Any], example=_FAILURE),
            401: ResponseSpec(
                description="Not authenticated", type=dict[str, str], example={"message": "Unauthorized"}
            ),
            404: ResponseSpec(description="No such service", type=dict[str, str], example={"message": "not found"}),
        }
        | {
            status: ResponseSpec(description="It failed", type=dict[str, Any], example=_FAILURE)
            for status in (403, 409, 413, 415, 422, 429, 500, 502, 503, 504)
        },
        request_example=_REQUEST,
        max_body_bytes=lambda routes: routes.max_body_bytes,
    )
    async def call(self, request: Request) -> AnyResponse:
        return await self._calls.respond(request)

    @route(
        "GET",
        PATH + "/tasks/{task}",
        name="getServiceTask",
        tag=TAG,
        open=True,
        summary="Get a call that is not in real time: its state, and its results once it has completed",
        description="A message whose header states `downMethod: async` becomes a task. Its states are 1 (created), "
        "2 (active), 3 (success) and 4 (failed).",
        path_parameters=(_VERSION, _SERVICE, PathParameter(name="task", description="the `task_id` of the response")),
        parameters=_PARAMETERS[:-1],
        responses={
            200: ResponseSpec(description="The task", type=dict[str, Any], example=_TASK),
            401: ResponseSpec(
                description="Not authenticated", type=dict[str, str], example={"message": "Unauthorized"}
            ),
            404: ResponseSpec(description="No such task", type=dict[str, str], example={"message": "not found"}),
            502: ResponseSpec(description="It failed", type=dict[str, Any], example=_FAILURE),
        },
    )
    async def task(self, request: Request) -> AnyResponse:
        return await self._calls.task(request)

    @route(
        "GET",
        PATH,
        name="openService",
        tag=TAG,
        open=True,
        summary="Open a WebSocket to a service: its messages are those of a call, in parts",
        path_parameters=(_VERSION, _SERVICE),
        parameters=(*_PARAMETERS, *_OF_SESSIONS),
        responses={
            101: ResponseSpec(description="The connection becomes a WebSocket"),
            400: ResponseSpec(
                description="A parameter is wrong",
                type=dict[str, str],
                example={"message": "stream_mode must be multiplex, where it is stated"},
            ),
            401: ResponseSpec(
                description="Not authenticated", type=dict[str, str], example={"message": "Unauthorized"}
            ),
            404: ResponseSpec(description="No such service", type=dict[str, str], example={"message": "not found"}),
            426: ResponseSpec(
                description="Not the handshake of a WebSocket",
                type=Problem,
                media_type=PROBLEM_JSON.decode(),
                example=_NO_HANDSHAKE,
            ),
        },
        max_body_bytes=lambda routes: routes.max_body_bytes,
    )
    async def connect(self, request: Request) -> AnyResponse:
        return await self._websockets.respond(request)
