"""The calls of ``Client`` about collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from penstock.client.transport import Query, Transport
from penstock.collections.collection import (
    Collection,
    CollectionPage,
    CollectionSetting,
    Deleted,
    Deletion,
    Item,
    ItemPage,
    Matches,
    Metric,
    Search,
    StoredItem,
    Upserted,
)

_COLLECTIONS: Final = "/api/v1/collections"


class CollectionCalls:
    """Manages collections and their items, and searches in them."""

    _transport: Transport

    async def collections(self, *, after: str = "", limit: int = 100) -> CollectionPage:
        """Return a page of the collections, by name."""
        query = {"after": after, "limit": str(limit)}
        return await self._transport.call("GET", _COLLECTIONS, CollectionPage, query=query)

    async def create_collection(self, name: str, dimension: int, metric: Metric = "cosine") -> Collection:
        """Create a collection, unless it is there. Raises WrongState if it has other dimensions or another metric."""
        setting = CollectionSetting(name=name, dimension=dimension, metric=metric)
        return await self._transport.call("POST", _COLLECTIONS, Collection, body=msgspec.to_builtins(setting))

    async def collection(self, name: str) -> Collection:
        """Return a collection. Raises NotFound."""
        return await self._transport.call("GET", _path(name), Collection)

    async def delete_collection(self, name: str) -> None:
        """Delete a collection with its items. Raises NotFound."""
        await self._transport.call("DELETE", _path(name), type(None))

    async def upsert_items(self, name: str, items: Sequence[Item | Mapping[str, Any]]) -> Upserted:
        """Write up to 1000 items: all of them, or none. Raises InvalidInput."""
        body = {"items": msgspec.to_builtins(list(items))}
        return await self._transport.call("POST", f"{_path(name)}/items", Upserted, body=body)

    async def items(
        self, name: str, *, group: str | None = None, after: str = "", limit: int = 100, vectors: bool = False
    ) -> ItemPage:
        """Return a page of items, by key."""
        query: Query = {"after": after, "limit": str(limit), "vectors": str(vectors).lower()}
        if group is not None:
            query = {**query, "group": group}
        return await self._transport.call("GET", f"{_path(name)}/items", ItemPage, query=query)

    async def item(self, name: str, key: str, *, vectors: bool = False) -> StoredItem:
        """Return an item. Raises NotFound."""
        query = {"vectors": str(vectors).lower()}
        return await self._transport.call("GET", f"{_path(name)}/items/{quote(key, safe='')}", StoredItem, query=query)

    async def delete_items(
        self,
        name: str,
        *,
        keys: Sequence[str] | None = None,
        group: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        files: bool = False,
    ) -> Deleted:
        """Delete items: those with these keys, those of a group, or those whose attributes contain these."""
        deletion = Deletion(
            keys=None if keys is None else list(keys),
            group=group,
            attributes=None if attributes is None else dict(attributes),
            files=files,
        )
        return await self._transport.call("POST", f"{_path(name)}/delete", Deleted, body=_stated(deletion))

    async def search(
        self,
        name: str,
        vector: Sequence[float],
        *,
        k: int = 10,
        max_distance: float | None = None,
        group: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        exact: bool = False,
        vectors: bool = False,
    ) -> Matches:
        """Return the items nearest to a vector, the nearest one first."""
        wanted = Search(
            vector=list(vector),
            k=k,
            max_distance=max_distance,
            group=group,
            attributes=None if attributes is None else dict(attributes),
            exact=exact,
            vectors=vectors,
        )
        return await self._transport.call("POST", f"{_path(name)}/search", Matches, body=_stated(wanted))


def _path(name: str) -> str:
    return f"{_COLLECTIONS}/{quote(name, safe='')}"


def _stated(value: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a request that are not None."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return {name: one for name, one in fields.items() if one is not None}
