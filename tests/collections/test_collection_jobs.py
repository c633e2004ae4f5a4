"""Jobs on collections: what flows call. Their writes take effect once, and only under a lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from penstock.collections.collection import CollectionSetting, Deletion
from penstock.collections.service import CollectionService
from penstock.errors import NotFound
from penstock.failures import CallFailed, Category
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from penstock.work.context import JobContext
from penstock.workers.collections import CollectionJobs
from penstock.workers.predict import Models, Served
from tests.support.collections import collection, item
from tests.support.databases import own_tenant, query
from tests.support.jobs import JobCaller, job_service


@pytest.fixture(scope="module")
async def jobs(database: Database) -> AsyncIterator[JobService]:
    async with job_service(database) as jobs:
        yield jobs


@pytest.fixture
def caller(jobs: JobService, tenant: TenantId) -> JobCaller:
    return JobCaller(jobs, tenant)


async def claimed(caller: JobCaller, action: str, **fields: Any) -> ClaimedJob:
    return await caller.submit_and_claim(
        task_type="collection", model_profile=action, input=msgspec.json.encode(fields)
    )


async def run(service: CollectionService, tenant: TenantId, job: ClaimedJob, models: Models | None = None) -> Any:
    """Run one attempt of a job, as a worker does."""
    (offer,) = [
        one for one in CollectionJobs(service, models).part.executors if job.model_profile in one.model_profiles
    ]
    result = await offer.executor(job, JobContext(lambda: None, tenant))
    return msgspec.json.decode(msgspec.json.encode(result))


async def test_a_job_acts_on_the_collections_of_its_tenant(
    service: CollectionService, caller: JobCaller, database: Database
) -> None:
    tenant = caller.tenant
    await collection(service, await own_tenant(database), {"secret": [1, 1]})

    async def done(action: str, **fields: Any) -> Any:
        return await run(service, tenant, await claimed(caller, action, collection="things", **fields))

    create = await claimed(caller, "create", name="things", dimension=2, metric="l2")
    assert (await run(service, tenant, create))["items"] == 0
    written = [{"key": "a", "vector": [0, 1], "group": "g", "attributes": {"n": 1}}, {"key": "b", "vector": [5, 5]}]
    assert await done("upsert", items=written) == {"inserted": 2, "updated": 0}
    assert await done("search", vector=[0, 0], k=1) == {
        "matches": [{"key": "a", "attributes": {"n": 1}, "group": "g", "distance": 1.0}],
        "exact": True,
    }
    assert [one["key"] for one in (await done("items", group="g"))["items"]] == ["a"]
    assert [one["key"] for one in (await done("items", keys=["b", "secret"]))["items"]] == ["b"]
    assert await done("delete", keys=["a", "secret"]) == {"deleted": 1, "files": 0}


@pytest.mark.parametrize(
    ("action", "fields", "message"),
    [
        ("search", {"collection": "things", "vector": [1]}, "vector: has 1 numbers"),
        ("search", {"collection": "things"}, "vector: is required"),
        ("upsert", {"collection": "things", "items": []}, "items"),
        ("delete", {"collection": "things", "keys": ["a"], "group": "g"}, "exactly one"),
        ("items", {"collection": "../things"}, "collection"),
        ("search", {"collection": "none", "vector": [1, 2]}, "no collection none"),
    ],
)
async def test_a_wrong_input_fails_the_job_for_good_and_names_the_field(
    service: CollectionService, caller: JobCaller, action: str, fields: dict[str, Any], message: str
) -> None:
    await collection(service, caller.tenant, {"a": [1, 2]})
    with pytest.raises(CallFailed, match=message) as caught:
        await run(service, caller.tenant, await claimed(caller, action, **fields))
    assert caught.value.category is Category.BAD_INPUT


async def test_an_attempt_that_runs_again_has_its_effect_once(service: CollectionService, caller: JobCaller) -> None:
    tenant = caller.tenant
    await collection(service, tenant, {"a": [1, 1]})
    deletion = await claimed(caller, "delete", collection="things", keys=["a"])
    assert (await run(service, tenant, deletion))["deleted"] == 1
    await service.upsert(tenant, "things", [item("a", 2, 2)])  # by another, before the first attempt could report
    assert (await run(service, tenant, deletion))["deleted"] == 1, "the outcome of the first attempt"
    assert (await service.collection(tenant, "things")).items == 1
    written = await claimed(caller, "upsert", collection="things", items=[{"key": "b", "vector": [1, 1]}])
    assert await run(service, tenant, written) == {"inserted": 1, "updated": 0}
    await service.delete(tenant, "things", Deletion(keys=["b"]))
    assert await run(service, tenant, written) == {"inserted": 1, "updated": 0}
    assert (await service.collection(tenant, "things")).items == 1


async def test_a_stale_attempt_writes_nothing(
    service: CollectionService, caller: JobCaller, database: Database
) -> None:
    tenant = caller.tenant
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="l2"))
    job = await claimed(caller, "upsert", collection="things", items=[{"key": "b", "vector": [1, 1]}])
    await caller.complete(job)
    with pytest.raises(CallFailed):
        await run(service, tenant, job)
    assert (await service.collection(tenant, "things")).items == 0
    assert await query(database, "SELECT count(*) FROM collection_write WHERE tenant_id = $1", tenant) == [(0,)]
    with pytest.raises(NotFound):
        await service.collection(tenant, "another")


class Lengths:
    """Models of a worker: one computes vectors from texts, the other something else."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        yield {}

    async def predict(self, name: str, job: ClaimedJob, _context: JobContext) -> bytes:
        given = msgspec.json.decode(job.input)
        self.inputs.append(given)
        vector = [len(given["text"]), 0]
        return msgspec.json.encode({"vector": vector} if name == "object" else vector)


async def test_a_model_computes_vectors_that_only_the_collection_stores(
    service: CollectionService, caller: JobCaller, database: Database
) -> None:
    tenant, models = caller.tenant, Lengths()
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="l2"))

    async def done(action: str, **fields: Any) -> Any:
        job = await claimed(caller, action, collection="things", **fields)
        result = await run(service, tenant, job, models)
        await caller.complete(job, msgspec.json.encode(result))
        return result

    items = [{"key": "a", "embed": {"text": "a" * 12345}}, {"key": "b", "vector": [1, 2]}]
    assert await done("upsert", items=items, model="list") == {"inserted": 2, "updated": 0}
    found = await done("search", embed={"text": "a" * 12346}, model="object", k=1)
    assert [(one["key"], one["distance"]) for one in found["matches"]] == [("a", 1.0)]
    assert [len(given["text"]) for given in models.inputs] == [12345, 12346]
    stored = await query(database, "SELECT input::text, result::text FROM jobs WHERE tenant_id = $1", tenant)
    assert len(stored) == 2
    assert "12345" not in str(stored)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"items": [{"key": "a"}]}, "items\\[0\\].vector"),
        ({"items": [{"key": "a", "embed": {}, "vector": [1, 2]}]}, "not both"),
        ({"items": [{"key": "a", "embed": {"text": ""}}]}, "model: is required"),
    ]
    for wrong, message in mistakes:
        with pytest.raises(CallFailed, match=message):
            await done("upsert", **wrong)
    job = await claimed(caller, "search", collection="things", embed={"text": ""}, model="list")
    with pytest.raises(CallFailed, match="no models") as caught:
        await run(service, tenant, job)
    assert caught.value.category is Category.UNAVAILABLE
