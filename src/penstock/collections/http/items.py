"""The routes of the items of a collection: writing, reading, deleting and searching them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.collections.collection import (
    Deleted,
    Deletion,
    Group,
    ItemPage,
    Limit,
    Matches,
    Search,
    StoredItem,
    Upsert,
    Upserted,
)
from penstock.collections.http.parts import KEY, LIMIT, NAME, NAMED, TAG, check_text, key_in, name_in
from penstock.collections.service import CollectionService
from penstock.errors import (
    BlobStoreUnavailable,
    DatabaseUnavailable,
    NotFound,
    Overloaded,
    QuotaExceeded,
    ScopeMissing,
)
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_MAX_BODY: Final = 16 * 2**20  # bytes
_MAX_SEARCH: Final = 256 * 2**10  # bytes
_VECTORS: Final = Parameter(name="vectors", type=bool, description="return the vectors too")

_WRITTEN: Final[dict[str, Any]] = {"key": "sky", "vector": [0.4, 0.6, 0.9], "attributes": {"name": "sky blue"}}
_STORED: Final = {"key": "sky", "attributes": {"name": "sky blue"}}
_SEARCH: Final = {"vector": [0.4, 0.6, 0.8], "k": 1}
_MATCHES: Final = {"matches": [{**_STORED, "distance": 0.1}], "exact": True}

_upsert = msgspec.json.Decoder(Upsert)
_deletion = msgspec.json.Decoder(Deletion)
_search = msgspec.json.Decoder(Search)


class _ItemQuery(Struct, frozen=True, kw_only=True):
    after: str = ""
    limit: Limit = 100
    group: Group | None = None
    vectors: bool = False


class _VectorQuery(Struct, frozen=True, kw_only=True):
    vectors: bool = False


class ItemRoutes:
    """The items in collections of the sender's tenant."""

    def __init__(self, service: CollectionService) -> None:
        self._service = service

    @route(
        "POST",
        "/api/v1/collections/{name}/items",
        name="upsertItems",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Write items: all of them or, if one is wrong, none",
        description="An item replaces the one that has its key.",
        path_parameters=(NAME,),
        request=Upsert,
        request_example={"items": [_WRITTEN]},
        responses={
            200: ResponseSpec(description="How many were written", type=Upserted, example={"inserted": 1, "updated": 0})
        },
        errors=(*BODY_ERRORS, NotFound, Overloaded, QuotaExceeded, DatabaseUnavailable),
        max_body_bytes=_MAX_BODY,
    )
    async def upsert(self, request: Request) -> Response:
        request.query({})
        name = name_in(request)
        wanted = await request.read(_upsert)
        return json_response(await self._service.upsert(request.principal.tenant, name, wanted.items))

    @route(
        "GET",
        "/api/v1/collections/{name}/items",
        name="listItems",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="List items by key",
        path_parameters=(NAME,),
        parameters=(
            Parameter(name="after", type=str, description="those after this key: the `next` of a page"),
            LIMIT,
            Parameter(name="group", type=Group, description="only those of this group"),
            _VECTORS,
        ),
        responses={200: ResponseSpec(description="Items", type=ItemPage, example={"items": [_STORED], "next": None})},
        errors=NAMED,
    )
    async def items(self, request: Request) -> Response:
        wanted = request.query_as(_ItemQuery)
        check_text(wanted.after, "after")
        page = await self._service.items(
            request.principal.tenant,
            name_in(request),
            group=wanted.group,
            after=wanted.after,
            limit=wanted.limit,
            vectors=wanted.vectors,
        )
        return json_response(page)

    @route(
        "GET",
        "/api/v1/collections/{name}/items/{key}",
        name="getItem",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="Return an item",
        path_parameters=(NAME, KEY),
        parameters=(_VECTORS,),
        responses={200: ResponseSpec(description="The item", type=StoredItem, example=_STORED)},
        errors=NAMED,
    )
    async def item(self, request: Request) -> Response:
        wanted = request.query_as(_VectorQuery)
        name, key = name_in(request), key_in(request)
        found = await self._service.items_by_key(request.principal.tenant, name, [key], vectors=wanted.vectors)
        if not found:
            raise NotFound(f"the collection {name} has no item {key}")
        return json_response(found[0])

    @route(
        "DELETE",
        "/api/v1/collections/{name}/items/{key}",
        name="deleteItem",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Delete an item",
        path_parameters=(NAME, KEY),
        responses={204: ResponseSpec(description="It is deleted")},
        errors=NAMED,
    )
    async def delete_item(self, request: Request) -> Response:
        request.query({})
        name, key = name_in(request), key_in(request)
        deleted = await self._service.delete(request.principal.tenant, name, Deletion(keys=[key]))
        if not deleted.deleted:
            raise NotFound(f"the collection {name} has no item {key}")
        return Response(status=204)

    @route(
        "POST",
        "/api/v1/collections/{name}/delete",
        name="deleteItems",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Delete items by key, by group, or by attributes",
        description="With `files`, the key needs the scope `files` too.",
        path_parameters=(NAME,),
        request=Deletion,
        request_example={"group": "colours of the sky"},
        responses={200: ResponseSpec(description="How many", type=Deleted, example={"deleted": 12, "files": 0})},
        errors=(*BODY_ERRORS, NotFound, ScopeMissing, BlobStoreUnavailable, DatabaseUnavailable),
        max_body_bytes=_MAX_SEARCH,
    )
    async def delete(self, request: Request) -> Response:
        request.query({})
        name = name_in(request)
        deletion = await request.read(_deletion)
        if deletion.files and not {scopes.FILES, scopes.OPERATOR} & request.principal.scopes:
            raise ScopeMissing(f"deleting files needs the scope {scopes.FILES}")
        return json_response(await self._service.delete(request.principal.tenant, name, deletion))

    @route(
        "POST",
        "/api/v1/collections/{name}/search",
        name="searchCollection",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="Return the items nearest to a vector",
        description=(
            "All items are compared, unless the collection has an index: large ones do where pgvector is installed. A "
            "search with `exact`, `group` or `attributes` never uses it."
        ),
        path_parameters=(NAME,),
        request=Search,
        request_example=_SEARCH,
        responses={200: ResponseSpec(description="The nearest items first", type=Matches, example=_MATCHES)},
        errors=(*BODY_ERRORS, NotFound, DatabaseUnavailable),
        max_body_bytes=_MAX_SEARCH,
    )
    async def search(self, request: Request) -> Response:
        request.query({})
        name = name_in(request)
        wanted = await request.read(_search)
        return json_response(await self._service.search(request.principal.tenant, name, wanted))
