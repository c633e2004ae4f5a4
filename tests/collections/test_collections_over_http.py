"""Collections over HTTP and through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from penstock.client import Client
from penstock.collections.collection import Item
from penstock.errors import InvalidInput, NotFound, WrongState
from penstock.masking import Secret
from penstock.tenants import scopes
from tests.support.gateways import HttpCaller, Reply, running_gateway


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


@pytest.fixture
async def client(operator: HttpCaller) -> AsyncIterator[Client]:
    async with Client(operator.address, token="operators-token") as client:
        yield client


async def test_the_client_manages_a_collection(client: Client) -> None:
    made = await client.create_collection("colours", 3, "l2")
    assert (made.name, made.items) == ("colours", 0)
    items: list[Item | Mapping[str, Any]] = [
        {"key": "sky/blue", "vector": [0.4, 0.6, 0.9], "attributes": {"name": "sky"}, "group": "blues"},
        {"key": "navy", "vector": [0, 0, 0.5], "group": "blues"},
        {"key": "red", "vector": [1, 0, 0]},
    ]
    assert (await client.upsert_items("colours", items)).inserted == 3
    assert [one.key for one in (await client.items("colours", group="blues")).items] == ["navy", "sky/blue"]
    item = await client.item("colours", "sky/blue", vectors=True)
    assert item.vector == pytest.approx([0.4, 0.6, 0.9])
    found = await client.search("colours", [1, 0, 0.1], k=2, max_distance=0.5)
    assert {one.key: one.distance for one in found.matches} == pytest.approx({"red": 0.1})
    assert (await client.delete_items("colours", group="blues")).deleted == 2
    with pytest.raises(NotFound):
        await client.item("colours", "navy")
    with pytest.raises(WrongState):
        await client.create_collection("colours", 4, "l2")
    with pytest.raises(InvalidInput, match="vector"):
        await client.search("colours", [1, 0])
    assert [one.items for one in (await client.collections()).collections] == [1]
    await client.delete_collection("colours")
    assert (await client.collections()).collections == []


async def test_wrong_requests_name_the_field(operator: HttpCaller) -> None:
    assert (await operator.post("/collections", {"name": "c", "dimension": 2, "metric": "l2"})).status == 201
    assert (await operator.post("/collections", {"name": "c", "dimension": 2, "metric": "l2"})).status == 200
    wrong = [
        ("POST", "/collections", {"name": "bad name", "dimension": 2}, 422, "name"),
        ("GET", "/collections/bad%20name", None, 422, "name"),
        ("POST", "/collections", {"name": "d", "dimension": 5000}, 422, "dimension"),
        ("POST", "/collections", {"name": "d", "dimension": 2, "metric": "l1"}, 422, "metric"),
        ("GET", "/collections?after=%00", None, 422, "after"),
        ("GET", "/collections/c/items?after=%00", None, 422, "after"),
        ("GET", "/collections/c/items?group=", None, 422, "group"),
        ("GET", "/collections/c/items/%00", None, 422, "key"),
        ("POST", "/collections/c/items", {"items": [{"key": "a", "vector": [1]}]}, 422, "items[0].vector"),
        ("POST", "/collections/c/search", {"vector": [1, "x"]}, 422, "vector[1]"),
        ("POST", "/collections/c/search", {"vector": [1, 2], "k": 0}, 422, "k"),
        ("POST", "/collections/c/delete", {}, 422, "body"),
    ]
    for method, path, body, status, field in wrong:
        reply = await operator.call(method, path, body)
        assert (reply.status, reply.fields) == (status, [field]), path
    huge = b'{"vector": [1e400, 1]}'
    assert (await operator.call("POST", "/collections/c/search", body=huge)).status == 422
    long = msgspec.json.encode({"vector": [1, 2], "attributes": {"a": "x" * 300_000}})
    assert (await operator.call("POST", "/collections/c/search", body=long)).status == 413


async def test_scopes_separate_reading_from_writing_and_files(operator: HttpCaller) -> None:
    assert (await operator.post("/tenants", {"name": "readers"})).status == 201

    async def key(*allowed: str) -> dict[str, str]:
        made = {"name": "k", "scopes": list(allowed)}
        reply = await operator.call("POST", "/keys", made, headers={"Penstock-Tenant": "readers"})
        return {"Authorization": f"Bearer {reply.json['key']}"}

    writer, reader = await key(scopes.COLLECTIONS_WRITE), await key(scopes.COLLECTIONS_READ)
    assert (await operator.call("POST", "/collections", {"name": "c", "dimension": 1}, headers=writer)).status == 201
    assert (await operator.call("GET", "/collections/c", headers=writer)).status == 403
    assert (await operator.call("GET", "/collections/c", headers=reader)).status == 200
    for method, path, body in [
        ("POST", "/collections", {"name": "d", "dimension": 1}),
        ("DELETE", "/collections/c", None),
        ("POST", "/collections/c/delete", {"keys": ["a"]}),
        ("POST", "/collections/c/items", {"items": [{"key": "a", "vector": [1]}]}),
    ]:
        assert (await operator.call(method, path, body, headers=reader)).status == 403, path
    deletion = {"keys": ["a"], "files": True}
    assert (await operator.call("POST", "/collections/c/delete", deletion, headers=writer)).status == 403
    both = await key(scopes.COLLECTIONS_WRITE, scopes.FILES)
    assert (await operator.call("POST", "/collections/c/delete", deletion, headers=both)).status == 200


@pytest.mark.parametrize(
    "deletion",
    [b'{"files": true}', b'{"files": false, "files": true}', b'{"f\\u0069les": true}'],
)
async def test_jobs_that_delete_files_need_the_scope_for_files(operator: HttpCaller, deletion: bytes) -> None:
    async def reply(keys: list[str], action: str, given: bytes) -> Reply:
        made = (await operator.post("/keys", {"name": "k", "scopes": keys})).json
        common = {"owner_service": "o", "task_type": "collection", "model_profile": action, "input": msgspec.Raw(given)}
        headers = {"Authorization": f"Bearer {made['key']}"}
        return await operator.call("POST", "/jobs", common, headers=headers)

    refused = await reply([scopes.JOBS_SUBMIT], "delete", deletion)
    assert refused.status == 403
    assert refused.json["code"] == "scope_missing"
    assert "input.files" in refused.json["detail"]
    assert scopes.FILES in refused.json["detail"]
    assert (await reply([scopes.JOBS_SUBMIT, scopes.FILES], "delete", deletion)).status == 201
    assert (await reply([scopes.JOBS_SUBMIT], "delete", b'{"files": false, "keys": ["a"]}')).status == 201
    assert (await reply([scopes.JOBS_SUBMIT], "delete", b"[]")).status == 201, "the worker refuses it"
    assert (await reply([scopes.JOBS_SUBMIT], "search", deletion)).status == 201
