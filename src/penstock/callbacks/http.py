"""Routes that manage callbacks: endpoints for types of events, and the deliveries to them."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from penstock.access.http.keys import sender_of
from penstock.callbacks.endpoint import (
    CreatedEndpoint,
    DeliveryPage,
    DeliveryStatus,
    Endpoint,
    EndpointChange,
    EndpointCreation,
    EndpointPage,
    MessageId,
    Replay,
    Replayed,
    Rotation,
)
from penstock.callbacks.service import CallbackService
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, Overloaded, WrongState
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS, convert
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

TAG: Final = "Callbacks"
_ID: Final = PathParameter(name="id", type=UUID, description="the callback's id")
_NO_ID: Final = UUID(int=0)
_Limit = Annotated[int, Meta(ge=1, le=1000)]
_LIMIT: Final = Parameter(name="limit", type=_Limit, description="the maximum number to return, by default 100")
_CREATION: Final = {"url": "https://shop.example/hooks/jobs", "events": ["job.completed", "job.failed"]}
_ENDPOINT: Final[dict[str, Any]] = {
    "id": "01977bd3-2c11-7d70-9d5c-3a3e5b7f0c55",
    **_CREATION,
    "description": "",
    "registered": True,
    "signed": True,
    "created_at": "2026-11-29T12:00:00Z",
    "disabled_at": None,
    "disabled_reason": None,
    "previous_secret_until": None,
    "waiting": 0,
    "delivered": 41,
    "dead": 0,
    "failed_attempts": 2,
    "failing_since": None,
    "resting_until": None,
}
_CREATED: Final = _ENDPOINT | {"secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
_DELIVERY: Final = {
    "id": "msg_1_1807-1-2958114",
    "type": "job.completed",
    "subject": "01977bd4-5b60-7a42-8c1f-1f6d0c2f7a01",
    "time": "2026-11-29T12:03:00Z",
    "status": "delivered",
    "next_attempt_at": None,
    "ended_at": "2026-11-29T12:03:01Z",
    "attempts": [{"at": "2026-11-29T12:03:01Z", "seconds": 0.012, "status": 200}],
}

_creation = msgspec.json.Decoder(EndpointCreation)
_change = msgspec.json.Decoder(EndpointChange)
_rotation = msgspec.json.Decoder(Rotation)
_replay = msgspec.json.Decoder(Replay)


class _ListQuery(Struct, frozen=True, kw_only=True):
    of_jobs: bool = False
    after: UUID = _NO_ID
    limit: _Limit = 100


class _DeliveryQuery(Struct, frozen=True, kw_only=True):
    status: DeliveryStatus | None = None
    before: MessageId | None = None
    limit: _Limit = 100


class CallbackRoutes:
    """The callbacks of the sender's tenant. URLs may hold secrets, so reading them needs the scope to manage them."""

    def __init__(self, service: CallbackService) -> None:
        self._service = service

    @route(
        "POST",
        "/api/v1/callbacks",
        name="createCallback",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Register an endpoint for types of events",
        description="It gets the tenant's events from now on. Only this response contains its secret.",
        request=EndpointCreation,
        request_example=_CREATION,
        responses={201: ResponseSpec(description="The callback", type=CreatedEndpoint, example=_CREATED)},
        errors=(*BODY_ERRORS, Overloaded, DatabaseUnavailable),
    )
    async def create(self, request: Request) -> Response:
        request.query({})
        created = await self._service.create(sender_of(request), await request.read(_creation))
        return json_response(created, 201, [(b"location", f"/api/v1/callbacks/{created.id}".encode())])

    @route(
        "GET",
        "/api/v1/callbacks",
        name="listCallbacks",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="List the registered endpoints, the oldest first",
        parameters=(
            Parameter(
                name="of_jobs", type=bool, description="list the endpoints that submissions of jobs named, instead"
            ),
            Parameter(name="after", type=UUID, description="those after this id: the `next` of a page"),
            _LIMIT,
        ),
        responses={
            200: ResponseSpec(
                description="Callbacks", type=EndpointPage, example={"callbacks": [_ENDPOINT], "next": None}
            )
        },
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_endpoints(self, request: Request) -> Response:
        query = request.query({"of_jobs": False, "after": False, "limit": False})
        wanted = convert({name: values[0] for name, values in query.items()}, _ListQuery)
        page = await self._service.endpoints(
            request.principal, registered=not wanted.of_jobs, after=wanted.after, at_most=wanted.limit
        )
        return json_response(page)

    @route(
        "GET",
        "/api/v1/callbacks/{id}",
        name="getCallback",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="A callback and its state",
        path_parameters=(_ID,),
        responses={200: ResponseSpec(description="The callback", type=Endpoint, example=_ENDPOINT)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.endpoint(request.principal, request.path_values["id"]))

    @route(
        "PATCH",
        "/api/v1/callbacks/{id}",
        name="changeCallback",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Change, disable or enable a callback",
        description="While it is disabled it gets no events; what waits for it is sent when it is enabled.",
        path_parameters=(_ID,),
        request=EndpointChange,
        request_example={"disabled": True},
        responses={200: ResponseSpec(description="The callback", type=Endpoint, example=_ENDPOINT)},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
    )
    async def change(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_change)
        return json_response(await self._service.change(sender_of(request), request.path_values["id"], wanted))

    @route(
        "DELETE",
        "/api/v1/callbacks/{id}",
        name="removeCallback",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Remove a callback and its deliveries",
        path_parameters=(_ID,),
        responses={204: ResponseSpec(description="It is removed")},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def remove(self, request: Request) -> Response:
        request.query({})
        await self._service.remove(sender_of(request), request.path_values["id"])
        return Response(status=204)

    @route(
        "POST",
        "/api/v1/callbacks/{id}/secret",
        name="rotateCallbackSecret",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Give a callback another secret",
        description="By default, messages are signed with both secrets for a day.",
        path_parameters=(_ID,),
        request=Rotation,
        request_example={"overlap_seconds": 3600},
        responses={200: ResponseSpec(description="The callback", type=CreatedEndpoint, example=_CREATED)},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
    )
    async def rotate(self, request: Request) -> Response:
        request.query({})
        rotation = await request.read(_rotation)
        return json_response(await self._service.rotate(sender_of(request), request.path_values["id"], rotation))

    @route(
        "POST",
        "/api/v1/callbacks/{id}/test",
        name="testCallback",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Send an event of the type callback.test to a callback",
        description="Its delivery is listed like any other.",
        path_parameters=(_ID,),
        responses={202: ResponseSpec(description="It will be sent")},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def test(self, request: Request) -> Response:
        request.query({})
        await self._service.test(request.principal, request.path_values["id"])
        return Response(status=202)

    @route(
        "GET",
        "/api/v1/callbacks/{id}/deliveries",
        name="listDeliveries",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="List the deliveries of a callback, the newest event first",
        path_parameters=(_ID,),
        parameters=(
            Parameter(
                name="status", type=DeliveryStatus, description="only deliveries that are waiting, delivered or dead"
            ),
            Parameter(name="before", type=MessageId, description="those before this id: the `next` of a page"),
            _LIMIT,
        ),
        responses={
            200: ResponseSpec(
                description="Deliveries", type=DeliveryPage, example={"deliveries": [_DELIVERY], "next": None}
            )
        },
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def deliveries(self, request: Request) -> Response:
        query = request.query({"status": False, "before": False, "limit": False})
        wanted = convert({name: values[0] for name, values in query.items()}, _DeliveryQuery)
        page = await self._service.deliveries(
            request.principal,
            request.path_values["id"],
            status=wanted.status,
            before=wanted.before,
            at_most=wanted.limit,
        )
        return json_response(page)

    @route(
        "POST",
        "/api/v1/callbacks/{id}/replay",
        name="replayDeliveries",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Send deliveries that have ended again: some by their ids, or the oldest 10,000 dead ones",
        description="The messages keep their ids, so a receiver that has processed one before ignores it.",
        path_parameters=(_ID,),
        request=Replay,
        request_example={"ids": ["msg_1_1807-1-2958114"]},
        responses={200: ResponseSpec(description="How many", type=Replayed, example={"replayed": 1})},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
    )
    async def replay(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_replay)
        number = await self._service.replay(sender_of(request), request.path_values["id"], wanted)
        return json_response(Replayed(replayed=number))
