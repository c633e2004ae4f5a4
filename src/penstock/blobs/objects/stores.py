"""The stores of objects that this process uses: the one for new objects, and others that still hold older ones.

A store's id is in the database and, as the object ``penstock-store``, in the store. So a host detects that it does not
see the folder of the others, and an installation that a bucket belongs to another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from penstock.blobs import store
from penstock.blobs.blob import POSTGRES
from penstock.blobs.objects.contract import MARK, ObjectStore
from penstock.blobs.objects.database import DatabaseObjects
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.telemetry import logs, metrics

log = logs.get(__name__)

_CHECKED_SECONDS: Final = 10.0  # for which the result of a check is reused
_CHECK_TIMEOUT: Final = 3.0  # seconds

_AVAILABLE = metrics.gauge(
    "penstock_blob_store_available", "Whether the store of new files can be used (1) or not (0).", ["store"]
)
_MISSING = metrics.gauge("penstock_blobs_missing", "Files whose bytes are missing from their store, at most 10,000.")
_DUE = metrics.gauge("penstock_blob_objects_due", "Objects that are due for removal, at most 10,000.")
_MOST_COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """Whether the store of new objects can be used."""

    url: str
    problem: str | None  # None: it can


class ObjectStores:
    """Finds the store of an object by the store's id."""

    def __init__(self, database: Database, current: ObjectStore, *, previous: Sequence[ObjectStore] = ()) -> None:
        self._database = database
        self.current = current
        self._stores = {one.url: one for one in (current, *previous)}
        self._by_id: dict[UUID, ObjectStore] = {}
        self._ids: dict[str, UUID] = {}
        self._add(POSTGRES, DatabaseObjects(database))
        self._opening = asyncio.Lock()
        self._state: tuple[float, StoreState] | None = None

    def _add(self, store_id: UUID, objects: ObjectStore) -> None:
        self._by_id[store_id] = objects
        self._ids[objects.url] = store_id

    async def current_id(self) -> UUID:
        """Return the id of the store of new objects. Raises BlobStoreUnavailable."""
        return await self._id_of(self.current)

    async def holding(self, store_id: UUID) -> ObjectStore:
        """Return the store of that id. Raises BlobStoreUnavailable if this process does not have it."""
        if store_id not in self._by_id:
            async with self._database.acquire() as connection:
                urls = {one.id: one.url for one in await store.stores(connection)}
            url = urls.get(store_id)
            if url not in self._stores:
                raise BlobStoreUnavailable(
                    f"the file is in {url or 'a store that the database does not know'}, which this process does not "
                    "use: name it in PENSTOCK_BLOB_URL or PENSTOCK_BLOB_PREVIOUS_URLS"
                )
            await self._id_of(self._stores[url])
        return self._by_id[store_id]

    def outside(self) -> list[ObjectStore]:
        """Return the stores outside of PostgreSQL."""
        return [one for one in self._stores.values() if not isinstance(one, DatabaseObjects)]

    async def checked(self, objects: ObjectStore) -> UUID:
        """Return the id of a store after reading its mark. Raises BlobStoreUnavailable."""
        if objects.url in self._ids:
            await self._check_mark(objects, self._ids[objects.url])
        return await self._id_of(objects)

    async def state(self) -> StoreState:
        """Return whether the store of new objects can be used; the result may be ten seconds old."""
        now = time.monotonic()
        if self._state is None or now - self._state[0] > _CHECKED_SECONDS:
            self._state = (now, StoreState(url=self.current.url, problem=await self._problem()))
            _AVAILABLE.labels(self.current.url).set(self._state[1].problem is None)
        return self._state[1]

    async def measure(self) -> None:
        """Set the gauges of the store. Raises DatabaseUnavailable."""
        await self.state()
        async with self._database.acquire() as connection:
            missing, due = await store.trouble(connection, limit=_MOST_COUNTED)
        _MISSING.set(missing)
        _DUE.set(due)

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await self.checked(self.current)
        except (BlobStoreUnavailable, DatabaseUnavailable) as error:
            log.warning("blob_store_unavailable", store=self.current.url, reason=error.message)
            return error.message
        except TimeoutError:
            return f"the store of files, {self.current.url}, does not respond"
        return None

    async def _id_of(self, objects: ObjectStore) -> UUID:
        """Return the id of a store, after comparing the database with the store once; a new store gets an id."""
        found = self._ids.get(objects.url)
        if found is not None:
            return found
        async with self._opening:
            if objects.url not in self._ids:
                self._add(await self._open(objects), objects)
        return self._ids[objects.url]

    async def _open(self, objects: ObjectStore) -> UUID:
        async with self._database.acquire() as connection:
            # Read before the mark: a store that is recorded as marked must have it.
            known = await store.stores(connection)
        mark = await objects.read_mark()
        if mark is None and all(one.url != objects.url for one in known):
            async with self._database.acquire() as connection:
                await store.add_store(connection, uuid7(), objects.url)
                known = await store.stores(connection)
            mark = await objects.read_mark()
        own = next((one for one in known if str(one.id).encode() == mark or one.url == objects.url), None)
        if own is not None and mark is None and not own.marked:
            await objects.write_mark(str(own.id).encode())
            mark = await objects.read_mark()
        if own is not None and mark is None:
            raise BlobStoreUnavailable(_not_seen(objects.url))
        if own is None or str(own.id).encode() != mark:
            raise BlobStoreUnavailable(_of_another(objects.url))
        if not own.marked:
            async with self._database.acquire() as connection:
                await store.store_marked(connection, own.id)
        return own.id

    async def _check_mark(self, objects: ObjectStore, store_id: UUID) -> None:
        mark = await objects.read_mark()
        if mark is None:
            raise BlobStoreUnavailable(_not_seen(objects.url))
        if mark != str(store_id).encode():
            raise BlobStoreUnavailable(_of_another(objects.url))


def _not_seen(url: str) -> str:
    return (
        f"the store of files, {url}, holds files of this installation, but not the object {MARK} that marks it: every "
        "host must see the same folder or bucket (is it mounted?)"
    )


def _of_another(url: str) -> str:
    return (
        f"the store of files, {url}, belongs to another installation, as its object {MARK} says: use another folder "
        "or prefix, or remove that object if no other installation uses the store"
    )
