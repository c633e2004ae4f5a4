"""The HTTP endpoints of collections, under ``/api/v1/collections``."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.collections.collection import (
    Collection,
    CollectionPage,
    CollectionSetting,
    Deleted,
    Deletion,
    Group,
    ItemPage,
    Key,
    Limit,
    Matches,
    Name,
    Search,
    StoredItem,
    Upsert,
    Upserted,
)
from penstock.collections.service import CollectionService
from penstock.errors import (
    BlobStoreUnavailable,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    Overloaded,
    QuotaExceeded,
    ScopeMissing,
    WrongState,
)
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS, convert
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

TAG: Final = "Collections"
_MAX_BODY: Final = 16 * 2**20  # bytes
_MAX_SEARCH: Final = 256 * 2**10  # bytes
_NAME: Final = PathParameter(name="name", description="the collection's name")
_KEY: Final = PathParameter(name="key", description="the item's key")
_VECTORS: Final = Parameter(name="vectors", type=bool, description="return the vectors too")
_LIMIT: Final = Parameter(name="limit", type=Limit, description="the maximum number to return, by default 100")
_NAMED: Final = (InvalidInput, NotFound, DatabaseUnavailable)

_SETTING: Final = {"name": "colours", "dimension": 3, "metric": "l2"}
_COLLECTION: Final = {
    **_SETTING,
    "items": 2,
    "created_at": "2026-11-30T09:00:00Z",
    "changed_at": "2026-11-30T09:02:00Z",
}
_WRITTEN: Final[dict[str, Any]] = {"key": "sky", "vector": [0.4, 0.6, 0.9], "attributes": {"name": "sky blue"}}
_STORED: Final = {"key": "sky", "attributes": {"name": "sky blue"}}
_SEARCH: Final = {"vector": [0.4, 0.6, 0.8], "k": 1}
_MATCHES: Final = {"matches": [{**_STORED, "distance": 0.1}], "exact": True}

_setting = msgspec.json.Decoder(CollectionSetting)
_upsert = msgspec.json.Decoder(Upsert)
_deletion = msgspec.json.Decoder(Deletion)
_search = msgspec.json.Decoder(Search)


class _PageQuery(Struct, frozen=True, kw_only=True):
    after: str = ""
    limit: Limit = 100


class _ItemQuery(Struct, frozen=True, kw_only=True):
    after: str = ""
    limit: Limit = 100
    group: Group | None = None
    vectors: bool = False


class _VectorQuery(Struct, frozen=True, kw_only=True):
    vectors: bool = False


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
            _LIMIT,
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
        _check_text(wanted.after, "after")
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
        path_parameters=(_NAME,),
        responses={200: ResponseSpec(description="The collection", type=Collection, example=_COLLECTION)},
        errors=_NAMED,
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.collection(request.principal.tenant, _name(request)))

    @route(
        "DELETE",
        "/api/v1/collections/{name}",
        name="deleteCollection",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Delete a collection with its items",
        path_parameters=(_NAME,),
        responses={204: ResponseSpec(description="It is gone; the rows of its items are deleted soon")},
        errors=_NAMED,
    )
    async def remove(self, request: Request) -> Response:
        request.query({})
        await self._service.remove(request.principal.tenant, _name(request))
        return Response(status=204)

    @route(
        "POST",
        "/api/v1/collections/{name}/items",
        name="upsertItems",
        tag=TAG,
        scope=scopes.COLLECTIONS_WRITE,
        summary="Write items: all of them or, if one is wrong, none",
        description="An item replaces the one that has its key.",
        path_parameters=(_NAME,),
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
        name = _name(request)
        wanted = await request.read(_upsert)
        return json_response(await self._service.upsert(request.principal.tenant, name, wanted.items))

    @route(
        "GET",
        "/api/v1/collections/{name}/items",
        name="listItems",
        tag=TAG,
        scope=scopes.COLLECTIONS_READ,
        summary="List items by key",
        path_parameters=(_NAME,),
        parameters=(
            Parameter(name="after", type=str, description="those after this key: the `next` of a page"),
            _LIMIT,
            Parameter(name="group", type=Group, description="only those of this group"),
            _VECTORS,
        ),
        responses={200: ResponseSpec(description="Items", type=ItemPage, example={"items": [_STORED], "next": None})},
        errors=_NAMED,
    )
    async def items(self, request: Request) -> Response:
        wanted = request.query_as(_ItemQuery)
        _check_text(wanted.after, "after")
        page = await self._service.items(
            request.principal.tenant,
            _name(request),
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
        path_parameters=(_NAME, _KEY),
        parameters=(_VECTORS,),
        responses={200: ResponseSpec(description="The item", type=StoredItem, example=_STORED)},
        errors=_NAMED,
    )
    async def item(self, request: Request) -> Response:
        wanted = request.query_as(_VectorQuery)
        name, key = _name(request), _key(request)
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
        path_parameters=(_NAME, _KEY),
        responses={204: ResponseSpec(description="It is deleted")},
        errors=_NAMED,
    )
    async def delete_item(self, request: Request) -> Response:
        request.query({})
        name, key = _name(request), _key(request)
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
        path_parameters=(_NAME,),
        request=Deletion,
        request_example={"group": "colours of the sky"},
        responses={200: ResponseSpec(description="How many", type=Deleted, example={"deleted": 12, "files": 0})},
        errors=(*BODY_ERRORS, NotFound, ScopeMissing, BlobStoreUnavailable, DatabaseUnavailable),
        max_body_bytes=_MAX_SEARCH,
    )
    async def delete(self, request: Request) -> Response:
        request.query({})
        name = _name(request)
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
        path_parameters=(_NAME,),
        request=Search,
        request_example=_SEARCH,
        responses={200: ResponseSpec(description="The nearest items first", type=Matches, example=_MATCHES)},
        errors=(*BODY_ERRORS, NotFound, DatabaseUnavailable),
        max_body_bytes=_MAX_SEARCH,
    )
    async def search(self, request: Request) -> Response:
        request.query({})
        name = _name(request)
        wanted = await request.read(_search)
        return json_response(await self._service.search(request.principal.tenant, name, wanted))


def _name(request: Request) -> str:
    return convert({"name": request.path("name")}, _NameIn).name


def _key(request: Request) -> str:
    return convert({"key": request.path("key")}, _KeyIn).key


class _NameIn(Struct, frozen=True):
    name: Name


class _KeyIn(Struct, frozen=True):
    key: Key


def _check_text(value: str, field: str) -> None:
    if "\x00" in value:
        raise InvalidInput.of(field, "must not contain the character U+0000")
