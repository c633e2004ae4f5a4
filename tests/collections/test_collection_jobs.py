"""Jobs on collections: what flows call. Their writes take effect once, and only under a lease."""

from __future__ import annotations

import asyncio
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
from penstock.work.executor import Executor
from penstock.work.executors import Executors
from penstock.workers import embeddings
from penstock.workers.collections import CollectionJobs
from penstock.workers.embeddings import EmbeddingJobs
from penstock.workers.predict import Served
from tests.support.collections import collection, item
from tests.support.databases import own_tenant, query
from tests.support.jobs import JobCaller, job_service
from tests.support.waiting import until


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


async def run(service: CollectionService, tenant: TenantId, job: ClaimedJob) -> Any:
    """Run one attempt of a job, as a worker does."""
    return await outcome(CollectionJobs(service), job, tenant)


async def outcome(executor: Executor, job: ClaimedJob, tenant: TenantId) -> Any:
    result = await executor(job, JobContext(lambda: None, tenant))
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
        ("items", {"collection": "things", "after": "\x00"}, "after"),
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
    """Models of a worker, which come and go: they compute vectors from the lengths of texts."""

    def __init__(self, *names: str) -> None:
        self.inputs: list[Any] = []
        self.served: dict[str, Served] = {name: Served(1, None) for name in names}
        self.changed = asyncio.Event()

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        while True:
            self.changed.clear()
            yield dict(self.served)
            await self.changed.wait()

    async def predict(self, name: str, job: ClaimedJob, _context: JobContext) -> bytes:
        given = msgspec.json.decode(job.input)
        self.inputs.append(given)
        vector = [len(given["text"]), 0]
        outputs: dict[str, Any] = {"object": {"vector": vector}, "list": vector, "other": {"label": "x"}}
        return msgspec.json.encode(outputs[name])


async def test_a_model_computes_vectors_that_only_the_collection_stores(
    service: CollectionService, caller: JobCaller, database: Database
) -> None:
    tenant, models = caller.tenant, Lengths()
    await service.create(tenant, CollectionSetting(name="things", dimension=2, metric="l2"))

    async def done(action: str, model: str, **fields: Any) -> Any:
        given = msgspec.json.encode({"collection": "things", **fields})
        job = await caller.submit_and_claim(task_type=action, model_profile=model, input=given)
        result = await outcome(EmbeddingJobs(service, models, model), job, tenant)
        await caller.complete(job, msgspec.json.encode(result))
        return result

    items = [{"key": "a", "embed": {"text": "a" * 12345}}, {"key": "b", "embed": {"text": "b"}}]
    assert await done("embed-upsert", "list", items=items) == {"inserted": 2, "updated": 0}
    found = await done("embed-search", "object", embed={"text": "a" * 12346}, k=1)
    assert [(one["key"], one["distance"]) for one in found["matches"]] == [("a", 1.0)]
    assert [len(given["text"]) for given in models.inputs] == [12345, 1, 12346]
    stored = await query(database, "SELECT result::text FROM jobs WHERE tenant_id = $1", tenant)
    assert len(stored) == 2
    assert "12345" not in str(stored)
    mistakes: list[tuple[str, dict[str, Any], str]] = [
        ("list", {"items": [{"key": "a"}]}, "embed: is required"),
        ("list", {"items": [{"key": "a", "embed": {}, "vector": [1, 2]}]}, "vector"),
        ("other", {"items": [{"key": "a", "embed": {"text": ""}}]}, "model_profile: other returns neither"),
    ]
    for model, wrong, message in mistakes:
        with pytest.raises(CallFailed, match=message) as caught:
            await done("embed-upsert", model, **wrong)
        assert caught.value.category is Category.BAD_INPUT


async def test_only_workers_with_the_model_take_such_jobs(service: CollectionService) -> None:
    models, executors = Lengths("list"), Executors()
    part = embeddings.part(service, models)
    assert part.follow is not None
    following = asyncio.ensure_future(part.follow(executors))
    try:
        await until(lambda: executors.find("embed-search", "list") is not None, "the model is served")
        assert executors.find("embed-search", "object") is None
        models.served = {"object": Served(1, frozenset({"acme"}))}
        models.changed.set()
        await until(lambda: executors.find("embed-upsert", "object") is not None, "the other is served")
        assert executors.find("embed-search", "list") is None
        assert [offer.tenants for offer in executors.offers] == [("acme",)]
    finally:
        following.cancel()
    assert embeddings.part(service, None).follow is None
