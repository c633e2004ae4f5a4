"""The quota of stored items: exact, also for writers to several collections at the same time."""

from __future__ import annotations

import asyncio

import pytest

from penstock.collections import store
from penstock.collections.collection import CollectionSetting, Deletion
from penstock.collections.service import CollectionService
from penstock.collections.store import Prepared
from penstock.errors import QuotaExceeded
from penstock.postgres.pool import Database
from penstock.quotas import store as quotas
from penstock.quotas.quota import Quota, QuotaSetting
from penstock.tenants.principal import TenantId
from tests.support.collections import item
from tests.support.databases import query
from tests.support.waiting import until, within

LIMIT = 100


async def used(database: Database, tenant: TenantId) -> int | None:
    async with database.acquire() as connection:
        found: list[Quota] = await quotas.quotas(connection, tenant)
    return found[0].used


@pytest.fixture
async def limited(database: Database, service: CollectionService, tenant: TenantId) -> CollectionService:
    """A tenant that may store a hundred items, with four collections."""
    async with database.acquire() as connection:
        await quotas.put(connection, tenant, QuotaSetting(measure="stored_items", limit=LIMIT))
    for name in "abcd":
        await service.create(tenant, CollectionSetting(name=name, dimension=1, metric="l2"))
    return service


async def test_a_write_beyond_the_quota_is_refused_as_a_whole(
    limited: CollectionService, tenant: TenantId, database: Database
) -> None:
    await limited.upsert(tenant, "a", [item(str(index), 1) for index in range(LIMIT)])
    with pytest.raises(QuotaExceeded, match="allows 100 items") as caught:
        await limited.upsert(tenant, "b", [item("one", 1), item("two", 1)])
    assert caught.value.exceeded is not None
    assert (caught.value.exceeded.quota, caught.value.exceeded.used) == ("stored-items", 102)
    assert (await limited.collection(tenant, "b")).items == 0
    await limited.upsert(tenant, "a", [item("5", 2)])  # replaces one
    await limited.delete(tenant, "a", Deletion(keys=["1", "2"]))
    assert await used(database, tenant) == LIMIT - 2
    assert (await limited.upsert(tenant, "b", [item("one", 1), item("two", 1)])).inserted == 2
    await limited.remove(tenant, "a")
    assert await used(database, tenant) == 2


async def test_writers_to_several_collections_do_not_exceed_it_together(
    limited: CollectionService, tenant: TenantId, database: Database
) -> None:
    prepared = [Prepared(item=item(str(index), 1), vector=[1.0], attributes=b"{}") for index in range(60)]
    async with database.acquire() as connection:
        async with connection.transaction():  # a writer that has counted, and not committed yet
            into = await store.lock(connection, tenant, "a")
            assert into is not None
            await store.upsert(connection, tenant, into, prepared)
            await store.count(connection, tenant, into, 60)
            assert await store.item_limit(connection, tenant) == LIMIT
            other = asyncio.create_task(limited.upsert(tenant, "b", [one.item for one in prepared]))

            async def waits() -> bool:
                activity = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                ((waiting,),) = await query(database, f"{activity} AND query LIKE '%stored_items%'")
                return waiting > 0 or other.done()

            await until(waits, "the other writer waits for the first")
        with pytest.raises(QuotaExceeded):
            await within(other)
    assert await used(database, tenant) == 60
