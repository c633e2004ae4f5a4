"""The routes of collections themselves, under ``/api/v1/collections``."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from penstock.collections.collection import Collection, CollectionPage, CollectionSetting, Limit
from penstock.collections.http.parts import LIMIT, NAME, NAMED, TAG, check_text, name_in
from penstock.collections.service import CollectionService
from penstock.errors import DatabaseUnavailable, InvalidInput, Overloaded, WrongState
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_SETTING: Final = {"name": "colours", "dimension": 3, "metric": "l2"}
_COLLECTION: Final = {
    **_SETTING,
    "items": 2,
    "created_at": "2026-11-30T09:00:00Z",
    "changed_at": "2026-11-30T09:02:00Z",
}

_setting = msgspec.json.Decoder(CollectionSetting)


class _PageQuery(Struct, frozen=True, kw_only=True):
    after: str = ""
    limit: Limit = 100


class CollectionRoutes:
    """The collections of the sender's tenant."""

    def __init__(self, service: CollectionService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/collections",
        name="listCollections",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="List the collections by name",
        parameters=(
            Parameter(name="after", type=str, description="those after this name: the `next` of a page"),
            LIMIT,
        ),
        responses={
            200: ResponseSpec(
                description="Collections", type=CollectionPage, example={"collections": [_COLLECTION], "next": None}
            )
        },
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_collections(self, request: Request) -> Response:
        wanted = request.query_as(_PageQuery)
        check_text(wanted.after, "after")
        page = await self._service.collections(request.principal.tenant, after=wanted.after, limit=wanted.limit)
        return json_response(page)

    @route(
        "POST",
        "/api/v1/collections",
        name="createCollection",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Create a collection, unless the same one is there",
        request=CollectionSetting,
        request_example=_SETTING,
        responses={
            200: ResponseSpec(description="The collection, which was there", type=Collection, example=_COLLECTION),
            201: ResponseSpec(description="The new collection", type=Collection, example=_COLLECTION | {"items": 0}),
        },
        errors=(*BODY_ERRORS, WrongState, Overloaded, DatabaseUnavailable),
    )
    async def create(self, request: Request) -> Response:
        request.query({})
        collection, new = await self._service.create(request.principal.tenant, await request.read(_setting))
        location = (b"location", f"/api/v1/collections/{collection.name}".encode())
        return json_response(collection, 201 if new else 200, [location])

    @route(
        "GET",
        "/api/v1/collections/{name}",
        name="getCollection",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="Return a collection and the number of its items",
        path_parameters=(NAME,),
        responses={200: ResponseSpec(description="The collection", type=Collection, example=_COLLECTION)},
        errors=NAMED,
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.collection(request.principal.tenant, name_in(request)))

    @route(
        "DELETE",
        "/api/v1/collections/{name}",
        name="deleteCollection",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Delete a collection with its items",
        path_parameters=(NAME,),
        responses={204: ResponseSpec(description="It is gone; the rows of its items are deleted soon")},
        errors=NAMED,
    )
    async def remove(self, request: Request) -> Response:
        request.query({})
        await self._service.remove(request.principal.tenant, name_in(request))
        return Response(status=204)
