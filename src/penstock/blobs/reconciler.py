"""Compare the stores of objects with the database, in both directions.

An object that nothing refers to, as after the database was restored from a backup, is removed once it is two days old.
A blob whose object is gone is marked and reported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from penstock.blobs import store
from penstock.blobs.blob import Place
from penstock.blobs.objects.contract import ListedObject, ObjectStore, tenant_of
from penstock.blobs.objects.stores import ObjectStores
from penstock.errors import BlobStoreUnavailable
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs

log = logs.get(__name__)

_PAGE: Final = 500  # objects of one step
_ORPHAN_AGE: Final = timedelta(days=2)  # longer than the writes that can still become blobs
_PASS_EVERY: Final = timedelta(days=1)


@dataclass(slots=True)
class Findings:
    """The findings of a comparison."""

    objects: int = 0
    orphans: int = 0  # objects that nothing refers to; they are removed
    foreign: int = 0  # objects whose keys are not those of Penstock; they are left alone
    missing: list[UUID] = field(default_factory=list)  # blobs whose object is gone


class Comparison:
    """One pass over one store, in steps."""

    def __init__(
        self, database: Database, stores: ObjectStores, objects: ObjectStore, *, orphan_age: timedelta = _ORPHAN_AGE
    ) -> None:
        self._database = database
        self._stores = stores
        self._objects = objects
        self._orphan_age = orphan_age
        self._after = ""
        self.found = Findings()

    async def step(self) -> bool:
        """Compare a page of objects; return whether there are more. Raises BlobStoreUnavailable."""
        store_id = await self._stores.checked(self._objects)
        page = await self._objects.listed(after=self._after, limit=_PAGE)
        last = len(page) < _PAGE
        self.found.objects += len(page)
        await self._find_orphans(store_id, page)
        await self._find_missing(store_id, {one.key for one in page}, until=None if last else page[-1].key)
        if not last:
            self._after = page[-1].key
        return not last

    async def _find_orphans(self, store_id: UUID, page: list[ListedObject]) -> None:
        oldest = datetime.now(UTC) - self._orphan_age
        ours = [one for one in page if tenant_of(one.key) is not None]
        self.found.foreign += len(page) - len(ours)
        old = [one.key for one in ours if one.modified_at <= oldest]
        if not old:
            return
        async with self._database.acquire() as connection:
            unknown = await store.unknown_objects(connection, store_id, old)
            await store.add_leftovers(connection, store_id, unknown)
        self.found.orphans += len(unknown)

    async def _find_missing(self, store_id: UUID, there: set[str], *, until: str | None) -> None:
        """Check the blobs whose objects should be in this page: up to ``until`` or, without it, to the end."""
        after = self._after
        while True:
            async with self._database.acquire() as connection:
                expected = await store.expected_objects(connection, store_id, after=after, until=until, limit=_PAGE)
            for one in expected:
                missing = one.key not in there and await self._objects.size(one.key) is None
                if missing:
                    await self._stores.checked(self._objects)  # the whole store may have just disappeared
                    self.found.missing.append(one.id)
                if missing != one.missing:
                    if missing:
                        log.error("blob_missing", blob=str(one.id), tenant=one.tenant_id, store=self._objects.url)
                    async with self._database.acquire() as connection:
                        await store.mark_missing(connection, Place(store_id, one.key), missing=missing)
            if len(expected) < _PAGE:
                return
            after = expected[-1].key


class Reconciler(Periodic):
    """Compares every store with the database once a day, a page at a time. Any number of processes may do so."""

    def __init__(
        self, database: Database, stores: ObjectStores, *, interval: timedelta = timedelta(minutes=10)
    ) -> None:
        super().__init__(interval=interval)
        self._database = database
        self._stores = stores
        self._left: list[ObjectStore] = []
        self._comparison: Comparison | None = None
        self._next_pass = 0.0  # monotonic

    async def once(self) -> bool:
        if not self._left:
            if time.monotonic() < self._next_pass:
                return False
            self._left = self._stores.outside()
            self._next_pass = time.monotonic() + _PASS_EVERY.total_seconds()
            return bool(self._left)
        if self._comparison is None:
            self._comparison = Comparison(self._database, self._stores, self._left[-1])
        try:
            if await self._comparison.step():
                return True
        except BlobStoreUnavailable as error:
            log.warning("blob_store_not_compared", reason=error.message)
        else:
            found = self._comparison.found
            log.info("blob_store_compared", store=self._left[-1].url, objects=found.objects, orphans=found.orphans,
                     foreign=found.foreign, missing=len(found.missing))  # fmt: skip
        self._left.pop()
        self._comparison = None
        return bool(self._left)
