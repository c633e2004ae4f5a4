"""Searches return what comparing every item would, with pgvector and without; an index misses few."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.collections import store
from penstock.collections.collection import CollectionSetting, Metric, Search
from penstock.collections.duties import CollectionIndexes
from penstock.collections.service import CollectionService
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.collections import collection, collection_service, distance, item, random_vectors
from tests.support.databases import execute, open_database, own_tenant, query
from tests.support.waiting import until, within

Anywhere = tuple[CollectionService, TenantId]
_NUMBERS = st.floats(-100, 100, width=32)
_VECTORS = st.lists(_NUMBERS, min_size=3, max_size=3)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("extension", [True, False])
@given(vectors=st.lists(_VECTORS, min_size=1, max_size=12), wanted=_VECTORS, k=st.integers(1, 12))
@settings(max_examples=25)
async def test_an_exact_search_finds_what_brute_force_finds(
    database: Database,
    plain_database: Database,
    metric: Metric,
    extension: bool,
    vectors: list[list[float]],
    wanted: list[float],
    k: int,
) -> None:
    if metric == "cosine" and not all(math.hypot(*vector) > 1e-3 for vector in [*vectors, wanted]):
        return
    chosen = database if extension else plain_database
    service, tenant = collection_service(chosen), await own_tenant(chosen)
    items = {f"k{index:02}": vector for index, vector in enumerate(vectors)}
    await collection(service, tenant, items, metric=metric)
    found = await service.search(tenant, "things", Search(vector=wanted, k=k))
    expected = {key: distance(metric, vector, wanted) for key, vector in items.items()}
    scale = max(1.0, *(abs(value) for value in expected.values()))
    nearest = sorted(expected.values())[:k]
    assert found.exact
    assert [match.distance for match in found.matches] == pytest.approx(nearest, abs=2e-6 * scale * 100)
    for match in found.matches:
        assert match.distance == pytest.approx(expected[match.key], abs=2e-6 * scale * 100)
    ordered = [(match.distance, match.key) for match in found.matches]
    assert ordered == sorted(ordered), "the nearest first, equal ones by key"


async def test_a_search_keeps_to_its_threshold_group_and_attributes(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await service.create(tenant, CollectionSetting(name="things", dimension=1, metric="l2"))
    await service.upsert(
        tenant,
        "things",
        [
            item(f"{index}", index, group="odd" if index % 2 else None, attributes={"n": index % 3})
            for index in range(9)
        ],
    )

    async def found(**where: Any) -> list[str]:
        return [one.key for one in (await service.search(tenant, "things", Search(vector=[0], **where))).matches]

    assert await found(k=3) == ["0", "1", "2"]
    assert await found(max_distance=1.5) == ["0", "1"]
    assert await found(max_distance=-1) == []
    assert await found(group="odd", k=2) == ["1", "3"]
    assert await found(attributes={"n": 2}) == ["2", "5", "8"]
    assert await found(attributes={"n": 2}, group="odd", max_distance=6) == ["5"]
    assert await found(group="none") == []
    (match, *_) = (await service.search(tenant, "things", Search(vector=[7.25], vectors=True))).matches
    assert (match.key, match.vector, match.distance) == ("7", [7.0], 0.25)


async def test_a_wrong_vector_is_refused(service: CollectionService, tenant: TenantId) -> None:
    await collection(service, tenant, {"a": [1, 2]}, metric="cosine")
    for vector in ([1], [1, 2, 3], [0, 0], [1e20, 0]):
        with pytest.raises(InvalidInput, match="vector"):
            await service.search(tenant, "things", Search(vector=list(map(float, vector))))
    with pytest.raises(NotFound):
        await service.search(tenant, "nothing", Search(vector=[1.0]))


async def test_a_search_in_a_collection_that_was_deleted_meanwhile_finds_nothing(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await collection(service, tenant, {"a": [1, 2]})
    database = service._database
    async with database.acquire() as connection:
        found = await store.find(connection, tenant, "things")
        assert found is not None
        await service.remove(tenant, "things")
        while await store.delete_removed(connection, limit=100):
            pass
        matches = await store.search(connection, tenant, found, Search(vector=[1, 2]), [1, 2], None)
    assert matches.matches == []


async def test_vectors_of_any_size_have_a_direction(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await collection(service, tenant, {"tiny": [5e-324, 0], "large": [0, 1e15]}, metric="cosine")
    (match, other) = (await service.search(tenant, "things", Search(vector=[1e-200, 0]))).matches
    assert match.key == "tiny"
    assert match.distance == pytest.approx(0, abs=1e-6)
    assert other.distance == pytest.approx(1, abs=1e-6)


ITEMS = 1500
DIMENSION = 32


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
async def test_an_index_of_a_large_collection_misses_few(fresh_database: Database, metric: Metric) -> None:
    service, tenant = collection_service(fresh_database), await own_tenant(fresh_database)
    await collection(service, tenant, random_vectors(ITEMS, DIMENSION), metric=metric)
    indexes = CollectionIndexes(fresh_database, min_items=1000)
    assert await indexes.once(), "the index is built"
    assert not await indexes.once(), "and then there is nothing to do"
    hits = wanted = 0
    for vector in random_vectors(40, DIMENSION, seed=2).values():
        near = await service.search(tenant, "things", Search(vector=vector, k=10))
        exact = await service.search(tenant, "things", Search(vector=vector, k=10, exact=True))
        assert (near.exact, exact.exact) == (False, True)
        hits += len({one.key for one in near.matches} & {one.key for one in exact.matches})
        wanted += len(exact.matches)
    assert hits >= 0.95 * wanted
    some = await service.search(tenant, "things", Search(vector=vector, attributes={"a": 1}))
    assert some.exact
    assert not some.matches
    large = await service.search(tenant, "things", Search(vector=vector, k=500))
    assert len(large.matches) == 500


BUILDS = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND datname = current_database()"


async def test_a_long_build_leaves_the_pool_to_others(database_url: str, fresh_database: Database) -> None:
    service, tenant = collection_service(fresh_database), await own_tenant(fresh_database)
    await collection(service, tenant, random_vectors(120, 4))

    async def building() -> bool:
        return await query(fresh_database, BUILDS) == [(1,)]

    async with open_database(database_url, max_size=1) as small:
        async with held_up(fresh_database):
            build = asyncio.create_task(CollectionIndexes(small, min_items=100).once())
            await until(building, "the build waits")
            assert await query(small, "SELECT 1") == [(1,)]
        assert await build
    found = await service.search(tenant, "things", Search(vector=[1, 1, 1, 1]))
    assert not found.exact, "the index is used"


async def test_the_limit_of_a_build_is_its_own(fresh_database: Database) -> None:
    service, tenant = collection_service(fresh_database), await own_tenant(fresh_database)
    await collection(service, tenant, random_vectors(120, 4))
    async with held_up(fresh_database):
        with pytest.raises(DatabaseUnavailable):
            await within(CollectionIndexes(fresh_database, min_items=100, longest=timedelta(milliseconds=50)).once())
    indexes = CollectionIndexes(fresh_database, min_items=100)
    assert await indexes.once(), "the broken index is removed"
    assert await indexes.once(), "it is built again"
    assert not (await service.search(tenant, "things", Search(vector=[1, 1, 1, 1]))).exact


@asynccontextmanager
async def held_up(database: Database) -> AsyncIterator[None]:
    """Hold a transaction that has written items: a concurrent build of an index waits for its end."""
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE collection_item SET changed_at = changed_at")
        yield


async def test_indexes_follow_the_collections(fresh_database: Database) -> None:
    service, tenant = collection_service(fresh_database), await own_tenant(fresh_database)
    await collection(service, tenant, random_vectors(60, 4), name="small")
    await collection(service, tenant, random_vectors(120, 4), name="large")
    indexes = CollectionIndexes(fresh_database, min_items=100)

    async def number() -> int:
        while await indexes.once():
            pass
        named = "SELECT count(*) FROM pg_class WHERE relname LIKE 'collection\\_hnsw\\_%' AND relkind = 'i'"
        return int((await query(fresh_database, named))[0][0])

    assert await number() == 1
    await collection(service, tenant, random_vectors(120, 4), name="small")
    assert await number() == 2
    broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE 'collection_hnsw_%'"
    await execute(fresh_database, broken)
    assert (await service.search(tenant, "large", Search(vector=[1, 1, 1, 1]))).exact, "a broken index is not used"
    assert await number() == 2, "broken ones were built again"
    assert not (await service.search(tenant, "large", Search(vector=[1, 1, 1, 1]))).exact
    await service.remove(tenant, "large")
    assert await number() == 1
    await execute(fresh_database, "DROP EXTENSION vector CASCADE")
    assert (await service.search(tenant, "small", Search(vector=[1, 1, 1, 1]))).exact
    assert await number() == 1, "the extension is installed again, and the index is built"
    assert not (await service.search(tenant, "small", Search(vector=[1, 1, 1, 1]))).exact
