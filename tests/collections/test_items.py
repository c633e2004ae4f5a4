"""Items of collections: writing, listing, deleting, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.collections.collection import CollectionSetting, Deleted, Deletion, Item, Search, StoredItem, Upserted
from penstock.collections.duties import CollectionUpkeep
from penstock.collections.service import CollectionService
from penstock.errors import InvalidInput, NotFound, WrongState
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.tenants.principal import TenantId
from tests.support.collections import collection, item
from tests.support.databases import own_tenant, query

Anywhere = tuple[CollectionService, TenantId]


async def keys(service: CollectionService, tenant: TenantId, name: str = "things", **where: Any) -> list[str]:
    return [one.key for one in (await service.items(tenant, name, **where)).items]


async def test_a_written_item_is_read_back_and_replaced_by_its_key(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="l2"))
    first = item("a", 1.5, -2, attributes={"n": [1, None, "ü"]}, group="g")
    assert await service.upsert(tenant, "things", [first]) == Upserted(inserted=1, updated=0)
    (found,) = (await service.items(tenant, "things", vectors=True)).items
    assert msgspec.json.decode(found.attributes) == {"n": [1, None, "ü"]}
    assert (found.key, found.group, found.vector) == ("a", "g", [1.5, -2.0])
    assert await service.upsert(tenant, "things", [item("b", 0, 0), item("a", 3, 4)]) == Upserted(inserted=1, updated=1)
    (again,) = await service.items_by_key(tenant, "things", ["a", "missing"], vectors=True)
    assert (again.vector, again.group, bytes(again.attributes)) == ([3.0, 4.0], None, b"{}")
    assert (await service.collection(tenant, "things")).items == 2


async def test_items_are_listed_by_key_in_pages_and_by_group(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await service.create(tenant, CollectionSetting(name="things", dimension=1, metric="l2"))
    made = [item(f"{index:02}", index, group="even" if index % 2 == 0 else None) for index in range(25)]
    await service.upsert(tenant, "things", made)
    seen, after = [], ""
    while True:
        page = await service.items(tenant, "things", after=after, limit=10)
        seen += [one.key for one in page.items]
        if page.next is None:
            break
        after = page.next
    assert seen == [one.key for one in made]
    assert await keys(service, tenant, group="even", after="10", limit=3) == ["12", "14", "16"]


async def test_items_are_deleted_by_key_by_group_and_by_attributes(anywhere: Anywhere) -> None:
    service, tenant = anywhere
    await service.create(tenant, CollectionSetting(name="things", dimension=1, metric="l2"))
    await service.upsert(
        tenant,
        "things",
        [
            item("a", 1, group="one"),
            item("b", 2, group="one", attributes={"source": {"page": 3, "file": "x"}}),
            item("c", 3, attributes={"source": {"page": 3}}),
            item("d", 4),
        ],
    )
    delete = service.delete
    assert await delete(tenant, "things", Deletion(keys=["a", "missing"])) == Deleted(deleted=1)
    assert await delete(tenant, "things", Deletion(attributes={"source": {"file": "x"}})) == Deleted(deleted=1)
    assert await delete(tenant, "things", Deletion(group="one")) == Deleted(deleted=0)
    assert await keys(service, tenant) == ["c", "d"]
    assert (await service.collection(tenant, "things")).items == 2
    for wrong in (Deletion(), Deletion(keys=["a"], group="one")):
        with pytest.raises(InvalidInput, match="exactly one of"):
            await delete(tenant, "things", wrong)


async def test_one_wrong_item_refuses_all_of_a_write(service: CollectionService, tenant: TenantId) -> None:
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="cosine"))
    wrong = [
        item("ok", 1, 1),
        item("short", 1),
        item("zero", 0, 0),
        item("large", 1e30, 1),
        item("nul", 1, 1, attributes={"a": ["\x00"]}),
        item("long", 1, 1, attributes={"a": "x" * 20_000}),
    ]
    with pytest.raises(InvalidInput) as caught:
        await service.upsert(tenant, "things", wrong)
    fields = [problem.field for problem in caught.value.problems]
    assert fields == [
        "items[1].vector",
        "items[2].vector",
        "items[3].vector",
        "items[4].attributes",
        "items[5].attributes",
    ]
    with pytest.raises(InvalidInput, match="twice"):
        await service.upsert(tenant, "things", [item("same", 1, 1), item("same", 1, 2)])
    with pytest.raises(InvalidInput, match="no such file"):
        await service.upsert(tenant, "things", [item("a", 1, 1), item("b", 1, 1, blob=UUID(int=7))])
    assert await keys(service, tenant) == []


@pytest.mark.parametrize("text", ["\\u0000", "\U0001f600", '"', "\x7f", "\\"])
async def test_attributes_hold_any_text(service: CollectionService, tenant: TenantId, text: str) -> None:
    await service.create(tenant, CollectionSetting(name="things", dimension=1, metric="l2"))
    await service.upsert(tenant, "things", [item("a", 1, attributes={text: text})])
    (found,) = (await service.items(tenant, "things")).items
    assert msgspec.json.decode(found.attributes) == {text: text}
    assert await service.delete(tenant, "things", Deletion(attributes={text: text})) == Deleted(deleted=1)


async def test_a_collection_is_created_once_and_keeps_its_form(service: CollectionService, tenant: TenantId) -> None:
    setting = CollectionSetting(name="c", dimension=3, metric="ip")
    assert (await service.create(tenant, setting))[1]
    assert not (await service.create(tenant, setting))[1]
    with pytest.raises(WrongState, match="3 dimensions and the metric ip"):
        await service.create(tenant, CollectionSetting(name="c", dimension=4, metric="ip"))
    await service.create(tenant, CollectionSetting(name="a", dimension=3, metric="ip"))
    page = await service.collections(tenant, limit=1)
    assert ([one.name for one in page.collections], page.next) == (["a"], "a")
    assert [one.name for one in (await service.collections(tenant, after="a")).collections] == ["c"]


async def test_a_removed_collection_is_gone_at_once_and_its_rows_soon(
    service: CollectionService, tenant: TenantId, database: Database
) -> None:
    await collection(service, tenant, {str(index): [index] for index in range(2500)})
    await service.remove(tenant, "things")
    for call in (
        service.collection(tenant, "things"),
        service.search(tenant, "things", Search(vector=[1])),
        service.upsert(tenant, "things", [item("a", 1)]),
        service.remove(tenant, "things"),
    ):
        with pytest.raises(NotFound):
            await call
    await collection(service, tenant, {"new": [1, 2]})
    upkeep = CollectionUpkeep(database, Wakeups(database), keep=timedelta(days=30))
    while await upkeep.once():
        pass
    counted = (
        "SELECT (SELECT count(*) FROM collection_item WHERE tenant_id = $1),"
        " (SELECT count(*) FROM collection WHERE tenant_id = $1)"
    )
    assert await query(database, counted, tenant) == [(1, 1)]
    assert await keys(service, tenant) == ["new"]


async def test_another_tenant_has_collections_of_its_own(
    service: CollectionService, tenant: TenantId, database: Database
) -> None:
    await collection(service, tenant, {"secret": [1, 1]})
    other = await own_tenant(database)
    with pytest.raises(NotFound):
        await service.search(other, "things", Search(vector=[1, 1]))
    await collection(service, other, {"own": [9, 9]})
    found = await service.search(other, "things", Search(vector=[1, 1]))
    assert [match.key for match in found.matches] == ["own"]
    await service.delete(other, "things", Deletion(keys=["secret", "own"]))
    await service.remove(other, "things")
    assert await keys(service, tenant) == ["secret"]


async def stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_files_of_items_are_deleted_with_them(service: CollectionService, tenant: TenantId) -> None:
    blobs = service._blobs
    ids = [(await blobs.put(tenant, stream(b"x"), media_type="image/png", filename="f.png")).id for _ in range(3)]
    await service.create(tenant, CollectionSetting(name="things", dimension=1, metric="l2"))
    await service.upsert(
        tenant,
        "things",
        [item("a", 1, group="g", blob=ids[0]), item("b", 1, group="g", blob=ids[1]), item("c", 1, blob=ids[2])],
    )
    await blobs.delete(tenant, ids[1])  # it has expired, for example
    assert await service.delete(tenant, "things", Deletion(group="g", files=True)) == Deleted(deleted=2, files=1)
    with pytest.raises(NotFound):
        await blobs.get(tenant, ids[0])
    assert (await blobs.get(tenant, ids[2])).id == ids[2]
    assert isinstance((await service.items(tenant, "things")).items[0], StoredItem)


def test_an_item_needs_a_key_and_a_vector() -> None:
    for wrong in ({"vector": [1]}, {"key": "a"}, {"key": "", "vector": [1]}, {"key": "a\n", "vector": [1]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Item)
