"""Many writers, deleters and searchers of one collection at a time."""

from __future__ import annotations

import asyncio
import random

from penstock.collections.collection import CollectionSetting, Deletion, Search
from penstock.collections.duties import CollectionIndexes
from penstock.collections.service import CollectionService
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.collections import item
from tests.support.databases import query
from tests.support.waiting import within


async def test_concurrent_writes_and_searches_agree_on_the_items(
    service: CollectionService, tenant: TenantId, database: Database
) -> None:
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="l2"))
    expected = set()

    async def write(writer: int) -> None:
        """Write items of a group of its own, and a few that all share; delete some of its own."""
        chance = random.Random(writer)
        for turn in range(15):
            keys = [f"{writer}-{turn}-{index}" for index in range(5)]
            shared = [f"shared-{index}" for index in chance.sample(range(20), 6)]
            chance.shuffle(shared)
            items = [item(key, writer, turn, group=f"g{writer}") for key in keys]
            await service.upsert(tenant, "things", [*items, *(item(key, writer, turn) for key in shared)])
            await service.delete(tenant, "things", Deletion(keys=keys[:2]))
            if writer % 2 == 0:
                expected.update(keys[2:])
        if writer % 2:
            await service.delete(tenant, "things", Deletion(group=f"g{writer}"))

    async def search(searcher: int) -> None:
        for turn in range(30):
            wanted = Search(vector=[searcher, turn % 15], k=50, vectors=True)
            matches = (await service.search(tenant, "things", wanted)).matches
            assert len({one.key for one in matches}) == len(matches), "no item is found twice"
            assert matches == sorted(matches, key=lambda one: (one.distance, one.key))

    async def index() -> None:
        indexes = CollectionIndexes(database, min_items=50)
        for _ in range(3):
            await indexes.once()

    await within(asyncio.gather(*(write(one) for one in range(6)), *(search(one) for one in range(3)), index()), 60)
    rows = await query(database, "SELECT key FROM collection_item WHERE tenant_id = $1", tenant)
    found = {key for (key,) in rows}
    assert {key for key in found if not key.startswith("shared-")} == expected
    assert (await service.collection(tenant, "things")).items == len(rows)
    everything = await service.search(tenant, "things", Search(vector=[0, 0], k=500, exact=True))
    assert {one.key for one in everything.matches} == found
