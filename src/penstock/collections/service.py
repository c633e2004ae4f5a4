"""The use cases of collections. Each write is one transaction, which first locks its collection."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import replace

from penstock.blobs.service import BlobService
from penstock.collections import rules, store
from penstock.collections.collection import (
    MAX_COLLECTIONS,
    MAX_ITEMS,
    Attempt,
    Collection,
    CollectionPage,
    CollectionSetting,
    Deleted,
    Deletion,
    Item,
    ItemPage,
    Matches,
    Search,
    StoredItem,
    Upserted,
)
from penstock.collections.store import Found, Prepared
from penstock.errors import (
    Exceeded,
    FieldProblem,
    InvalidInput,
    NotFound,
    Overloaded,
    QuotaExceeded,
    StaleEpoch,
    WrongState,
)
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.quotas.quota import STORED_ITEMS, name_of
from penstock.tenants.principal import TenantId

TOPIC: Final = "collections"  # of wake-ups: a collection was removed
_CHUNK: Final = 20_000  # items that one statement deletes
_MAX_FILES: Final = 10_000  # that one deletion deletes

W = TypeVar("W", Upserted, Deleted)


class CollectionService:
    """Manages the collections of tenants, their items, and searches in them."""

    def __init__(self, database: Database, blobs: BlobService, wakeups: Wakeups | None = None) -> None:
        self._database = database
        self._blobs = blobs
        self._wakeups = wakeups

    async def create(self, tenant: TenantId, setting: CollectionSetting) -> tuple[Collection, bool]:
        """Create a collection, unless the same one is there; returns it, and whether it is new.

        Raises WrongState if there is another of that name, and Overloaded.
        """
        name = setting.name
        async with self._database.acquire() as connection, connection.transaction():
            found = await store.find(connection, tenant, name)
            if found is None:
                if await store.number_of(connection, tenant) >= MAX_COLLECTIONS:
                    raise Overloaded(f"this tenant has {MAX_COLLECTIONS} collections; remove some first")
                created = await store.create(connection, tenant, setting)
                if created is not None:
                    return created.collection, True
                found = await _existing(connection, tenant, name)
        one = found.collection
        if (one.dimension, one.metric) != (setting.dimension, setting.metric):
            raise WrongState(
                f"the collection {name} exists with {one.dimension} dimensions and the metric {one.metric}"
            )
        return one, False

    async def collections(self, tenant: TenantId, *, after: str = "", limit: int = 100) -> CollectionPage:
        """Return a page of a tenant's collections, by name."""
        async with self._database.acquire() as connection:
            found = await store.page(connection, tenant, after=after, limit=limit + 1)
        more = len(found) > limit
        return CollectionPage(collections=found[:limit], next=found[limit - 1].name if more else None)

    async def collection(self, tenant: TenantId, name: str) -> Collection:
        """Return a collection. Raises NotFound."""
        async with self._database.acquire() as connection:
            return (await _existing(connection, tenant, name)).collection

    async def remove(self, tenant: TenantId, name: str) -> None:
        """Remove a collection: nothing sees it from now on, and its items are deleted soon. Raises NotFound."""
        async with self._database.acquire() as connection:
            if not await store.remove(connection, tenant, name):
                raise _unknown(name)
        if self._wakeups is not None:
            self._wakeups.announce(TOPIC)

    async def upsert(
        self, tenant: TenantId, name: str, items: Sequence[Item], *, attempt: Attempt | None = None
    ) -> Upserted:
        """Write all of the items, or none.

        Raises NotFound, InvalidInput, Overloaded, QuotaExceeded, and StaleEpoch for an attempt.
        """
        rules.check_keys(items)
        async with self._database.acquire() as connection, connection.transaction():
            if (done := await _outcome(connection, tenant, attempt, Upserted)) is not None:
                return done
            into = await _locked(connection, tenant, name)
            prepared = _prepared(into.collection, items)
            await _check_blobs(connection, tenant, items)
            inserted = await store.upsert(connection, tenant, into, prepared)
            if await store.count(connection, tenant, into, inserted) > MAX_ITEMS:
                raise Overloaded(f"the collection {name} would have more than {MAX_ITEMS} items")
            if inserted:
                await _check_quota(connection, tenant)
            written = Upserted(inserted=inserted, updated=len(items) - inserted)
            await _record(connection, tenant, attempt, written)
        return written

    async def delete(
        self, tenant: TenantId, name: str, deletion: Deletion, *, attempt: Attempt | None = None
    ) -> Deleted:
        """Delete the items that the deletion selects, and their files if it says so. Files are deleted first, so that a
        deletion that was interrupted can be repeated. Raises NotFound, InvalidInput, and StaleEpoch for an attempt.
        """
        rules.check_deletion(deletion)
        attributes = _encoded(deletion.attributes)
        files = await self._delete_files(tenant, name, deletion, attributes, attempt) if deletion.files else 0
        async with self._database.acquire() as connection, connection.transaction():
            if (done := await _outcome(connection, tenant, attempt, Deleted)) is not None:
                return done
            of = await _locked(connection, tenant, name)
            deleted = 0
            while number := await store.delete(connection, tenant, of, deletion, attributes, limit=_CHUNK):
                deleted += number
            await store.count(connection, tenant, of, -deleted)
            written = Deleted(deleted=deleted, files=files)
            await _record(connection, tenant, attempt, written)
        return written

    async def _delete_files(
        self, tenant: TenantId, name: str, deletion: Deletion, attributes: bytes | None, attempt: Attempt | None
    ) -> int:
        async with self._database.acquire() as connection, connection.transaction():
            if await _outcome(connection, tenant, attempt, Deleted) is not None:
                return 0
            of = await _existing(connection, tenant, name)
            found = await store.files(connection, tenant, of, deletion, attributes, limit=_MAX_FILES + 1)
        if len(found) > _MAX_FILES:
            raise InvalidInput.of(
                "files", f"more than {_MAX_FILES} files would be deleted; delete fewer items at a time"
            )
        deleted = 0
        for blob in found:
            with suppress(NotFound):  # it has expired
                await self._blobs.delete(tenant, blob)
                deleted += 1
        return deleted

    async def items(
        self,
        tenant: TenantId,
        name: str,
        *,
        group: str | None = None,
        after: str = "",
        limit: int = 100,
        vectors: bool = False,
    ) -> ItemPage:
        """Return a page of items by key, of one group or of all. Raises NotFound."""
        async with self._database.acquire() as connection:
            of = await _existing(connection, tenant, name)
            found = await store.items(
                connection, tenant, of, group=group, after=after, limit=limit + 1, vectors=vectors
            )
        return ItemPage(items=found[:limit], next=found[limit - 1].key if len(found) > limit else None)

    async def items_by_key(
        self, tenant: TenantId, name: str, keys: Sequence[str], *, vectors: bool = False
    ) -> list[StoredItem]:
        """Return those of the items that exist, by key. Raises NotFound for the collection."""
        async with self._database.acquire() as connection:
            of = await _existing(connection, tenant, name)
            return await store.items_by_key(connection, tenant, of, keys, vectors=vectors)

    async def search(self, tenant: TenantId, name: str, wanted: Search) -> Matches:
        """Return the nearest items. Raises NotFound and InvalidInput."""
        attributes = _encoded(wanted.attributes)
        async with self._database.acquire() as connection:
            of = await _existing(connection, tenant, name)
            vector = rules.vector_of(of.collection, wanted.vector, field="vector")
            found = await store.search(connection, tenant, of, wanted, vector, attributes)
        if wanted.max_distance is None:
            return found
        return replace(found, matches=[one for one in found.matches if one.distance <= wanted.max_distance])


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no collection {name}")


async def _existing(connection: asyncpg.Connection, tenant: TenantId, name: str) -> Found:
    found = await store.find(connection, tenant, name)
    if found is None:
        raise _unknown(name)
    return found


async def _locked(connection: asyncpg.Connection, tenant: TenantId, name: str) -> Found:
    found = await store.lock(connection, tenant, name)
    if found is None:
        raise _unknown(name)
    return found


def _encoded(attributes: dict[str, object] | None) -> bytes | None:
    return None if attributes is None else rules.checked_attributes(attributes, field="attributes")


def _prepared(collection: Collection, items: Sequence[Item]) -> list[Prepared]:
    """Return the items as they are stored. Raises InvalidInput with the mistakes of all items."""
    prepared: list[Prepared] = []
    problems: list[FieldProblem] = []
    for index, item in enumerate(items):
        try:
            vector = rules.vector_of(collection, item.vector, field=f"items[{index}].vector")
            attributes = rules.checked_attributes(item.attributes, field=f"items[{index}].attributes")
            prepared.append(Prepared(item=item, vector=vector, attributes=attributes))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems[:20])
    return prepared


async def _check_quota(connection: asyncpg.Connection, tenant: TenantId) -> None:
    """Raise QuotaExceeded if the tenant stores more items than a quota allows, with those of this transaction."""
    limit = await store.item_limit(connection, tenant)
    if limit is None:
        return
    used = await store.stored_items(
        connection, tenant
    )  # a statement of its own: it sees what earlier writers committed
    if used > limit:
        exceeded = Exceeded(quota=name_of(STORED_ITEMS, ""), limit=limit, used=used)
        raise QuotaExceeded(f"the quota allows {limit} items in collections; there would be {used}", exceeded=exceeded)


async def _check_blobs(connection: asyncpg.Connection, tenant: TenantId, items: Sequence[Item]) -> None:
    """Raise InvalidInput for files that the tenant does not have."""
    places: dict[UUID, int] = {item.blob: index for index, item in enumerate(items) if item.blob is not None}
    if not places:
        return
    unknown = await store.unknown_blobs(connection, tenant, list(places))
    if unknown:
        problems = [FieldProblem(field=f"items[{places[one]}].blob", detail="there is no such file") for one in unknown]
        raise InvalidInput(problems[:20])


async def _outcome(
    connection: asyncpg.Connection, tenant: TenantId, attempt: Attempt | None, kind: type[W]
) -> W | None:
    """Return what the attempt's job has written before, if it has. Raises StaleEpoch for one that lost its lease."""
    if attempt is None:
        return None
    if not await store.hold_lease(connection, tenant, attempt):
        raise StaleEpoch
    written = await store.outcome(connection, tenant, attempt)
    return None if written is None else msgspec.json.decode(written, type=kind)


async def _record(
    connection: asyncpg.Connection, tenant: TenantId, attempt: Attempt | None, written: Upserted | Deleted
) -> None:
    if attempt is not None:
        await store.record(connection, tenant, attempt, msgspec.json.encode(written))
