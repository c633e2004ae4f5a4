"""Models of tenants: who sees, calls and manages which, and what a key's lists of models and queues allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from penstock.client import Client
from penstock.masking import Secret
from penstock.models.reader import Reader
from penstock.models.result_files import ResultMedia
from penstock.tenants import scopes
from penstock.work.executors import Executors
from penstock.workers import predict
from penstock.workers.hosted_models import HostedModels
from penstock.workers.predict import Served
from penstock.workers.worker import Worker
from tests.support.databases import open_database, query
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.http_servers import running
from tests.support.waiting import within

PLAIN = "class Model:\n    def predict(self, text: str) -> str:\n        return text.upper()\n"
MANIFEST = 'name = "{name}"\nruntime = "python"\n{more}[python]\nclass = "code:Model"\n'
LOOPBACK = ("127.0.0.0/8",)
SECRET = "a-secret-that-must-not-be-shown"


class Tenant:
    """Calls with a key of one tenant."""

    def __init__(self, caller: HttpCaller, name: str, key: str) -> None:
        self.caller = caller
        self.name = name
        self.key = key
        self.headers = {"Authorization": f"Bearer {key}"}

    async def call(self, method: str, path: str, value: Any = None) -> Reply:
        return await self.caller.call(method, path, value, headers=self.headers)

    async def names(self) -> list[str]:
        return [model["name"] for model in (await self.call("GET", "/models")).json["models"]]

    async def add(self, name: str, url: str, **more: Any) -> Reply:
        options = {"url": f"{url}/{self.name}"} | more.pop("http", {})
        return await self.call("POST", "/models", {"name": name, "runtime": "http", "http": options, **more})

    async def predict(self, name: str, text: str = "") -> Reply:
        return await self.call("POST", f"/models/{name}/predict", {"text": text})


@pytest.fixture(scope="module")
async def operator(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN to a gateway with two models of the operator: one for all, one for alpha."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("shared", ""), ("chosen", 'tenants = ["alpha"]\n')):
        (folder / name).mkdir()
        (folder / name / "code.py").write_text(PLAIN)
        (folder / name / "model.toml").write_text(MANIFEST.format(name=name, more=more))
    token = Secret("operators-token")
    async with running_gateway(
        module_database_url, models_folder=folder, ai_service_token=token, penstock_fetch_networks=LOOPBACK
    ) as caller:
        for name in ("alpha", "beta"):
            assert (await caller.post("/tenants", {"name": name})).status == 201
        yield caller


async def key_of(operator: HttpCaller, name: str, **limits: Any) -> Tenant:
    body = {"name": "test", "scopes": sorted(scopes.OF_TENANTS), **limits}
    reply = await operator.call("POST", "/keys", body, headers={"Penstock-Tenant": name})
    assert reply.status == 201, reply.body
    return Tenant(operator, name, reply.json["key"])


@pytest.fixture(scope="module")
async def alpha(operator: HttpCaller) -> Tenant:
    return await key_of(operator, "alpha")


@pytest.fixture(scope="module")
async def beta(operator: HttpCaller) -> Tenant:
    return await key_of(operator, "beta")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[str]:
    """A server whose output is the path of the request."""

    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    async with running(respond) as address:
        yield address


async def test_tenants_have_models_of_their_own_with_the_same_name(
    operator: HttpCaller, alpha: Tenant, beta: Tenant, server: str
) -> None:
    for tenant in (alpha, beta):
        added = await tenant.add("same", server)
        assert (added.status, added.json["tenant"]) == (201, tenant.name), added.body
    for tenant in (alpha, beta):
        assert (await tenant.predict("same")).json == {"path": f"/{tenant.name}"}
        assert (await tenant.names()).count("same") == 1
    exposed = (await operator.get("/metrics")).body.decode()
    for tenant in (alpha, beta):
        (line,) = [
            line
            for line in exposed.splitlines()
            if line.startswith("penstock_model_calls_total{") and f'owner="{tenant.name}"' in line and '"same"' in line
        ]
        assert line.endswith(" 1.0"), line
    assert (await beta.call("DELETE", "/models/same")).status == 204
    assert (await beta.predict("same")).status == 404
    assert (await alpha.predict("same")).json == {"path": "/alpha"}


async def test_a_model_of_another_tenant_does_not_exist(
    operator: HttpCaller, alpha: Tenant, beta: Tenant, server: str
) -> None:
    assert (await alpha.add("private", server)).status == 201
    for method, path in (
        ("GET", "/models/{}"),
        ("POST", "/models/{}/predict"),
        ("POST", "/models/{}/stream"),
        ("POST", "/models/{}/reload"),
        ("GET", "/models/{}/logs"),
        ("DELETE", "/models/{}/logs"),
        ("DELETE", "/models/{}"),
        ("GET", "/get/predict?id={}"),
        ("GET", "/get/getlogs?id={}"),
        ("GET", "/get/cleanlogs?id={}"),
    ):
        replies = [await beta.call(method, path.format(name)) for name in ("private", "nothing")]
        shown = [(reply.status, reply.body.replace(b"private", b"nothing")) for reply in replies]
        assert shown[0] == shown[1], path
        assert shown[0][0] in {400, 404}, path
    assert "private" not in await beta.names()
    listed = (await operator.get("/models")).json["models"]
    assert "private" not in [model["name"] for model in listed], "an operator sees it with Penstock-Tenant"
    assert (await operator.get("/models/private", Penstock_Tenant="alpha")).status == 200
    everything = (await operator.get("/models?all_tenants=true")).json["models"]
    assert ("private", "alpha") in [(model["name"], model["tenant"]) for model in everything]
    assert (await alpha.call("GET", "/models?all_tenants=true")).outcome == (403, "scope_missing")


async def test_a_name_that_another_tenant_has_is_not_suggested(alpha: Tenant, beta: Tenant, server: str) -> None:
    assert (await alpha.add("unguessable-name", server)).status == 201
    assert "unguessable-name" in (await alpha.predict("unguessable-nam")).json["detail"]
    assert "did you mean" not in (await beta.predict("unguessable-nam")).json["detail"]


async def test_models_of_the_operator_are_shared_unless_their_manifest_names_tenants(
    operator: HttpCaller, alpha: Tenant, beta: Tenant
) -> None:
    for tenant in (alpha, beta):
        assert (await tenant.predict("shared", "a")).json == "A"
        assert "shared" in await tenant.names()
    assert (await alpha.predict("chosen", "a")).json == "A"
    assert (await beta.predict("chosen", "a")).status == 404
    assert "chosen" not in await beta.names()
    assert {"shared", "chosen"} <= {model["name"] for model in (await operator.get("/models")).json["models"]}


async def test_a_shared_model_is_managed_by_operators_only(operator: HttpCaller, alpha: Tenant) -> None:
    for method, path in (
        ("POST", "/models/shared/reload"),
        ("GET", "/models/shared/logs"),
        ("DELETE", "/models/shared/logs"),
        ("DELETE", "/models/shared"),
    ):
        refused = await alpha.call(method, path)
        assert refused.outcome == (403, "scope_missing"), path
        assert "operator" in refused.json["detail"]
    assert (await alpha.call("GET", "/get/getlogs?id=shared")).status == 403
    seen = (await alpha.call("GET", "/models/shared")).json
    assert (seen["details"], seen["options"]) == ([], {}), "the load shows what other tenants do"
    assert (await operator.get("/models/shared")).json["details"]
    assert (await operator.post("/models/shared/reload")).status == 200
    assert (await alpha.predict("shared", "a")).json == "A"


async def test_a_tenant_may_not_state_keys_that_concern_others(alpha: Tenant, beta: Tenant, server: str) -> None:
    assert (await alpha.add("shared", server)).outcome == (409, "already_exists")
    assert (await alpha.add("chosen", server)).outcome == (409, "already_exists")
    assert (await beta.add("chosen", server)).status == 201, "it does not see the operator's"
    assert (await beta.predict("chosen")).json == {"path": "/beta"}
    for field, value in (("tenants", ["beta"]), ("device", "cuda:0"), ("device_share", 1.0), ("exclusive", "gpu")):
        refused = await alpha.add("greedy", server, **{field: value})
        assert (refused.status, refused.fields) == (422, [field]), refused.body
    by_name = await alpha.call("POST", "/models", {"name": "shared"})
    assert (by_name.status, by_name.fields) == (422, ["runtime"])


async def test_a_key_uses_the_models_in_its_list_only(operator: HttpCaller, alpha: Tenant, server: str) -> None:
    assert (await alpha.add("listed", server)).status == 201
    assert (await alpha.add("unlisted", server)).status == 201
    limited = await key_of(operator, "alpha", models=["listed", "shared"])
    assert await limited.names() == ["listed", "shared"]
    assert (await limited.predict("listed")).status == 200
    for method, path in (
        ("POST", "/models/unlisted/predict"),
        ("GET", "/models/unlisted"),
        ("DELETE", "/models/unlisted"),
    ):
        assert (await limited.call(method, path)).outcome == (404, "not_found")
    refused = await limited.add("another", server)
    assert (refused.status, refused.fields) == (422, ["name"])
    job = {"owner_service": "t", "task_type": "predict", "input": {"text": "a"}}
    assert (await limited.call("POST", "/jobs", job | {"model_profile": "listed"})).status == 201
    refused = await limited.call("POST", "/jobs", job | {"model_profile": "unlisted"})
    assert refused.outcome == (403, "forbidden")
    assert "may not use the model unlisted" in refused.json["detail"]


async def test_a_key_uses_the_queues_in_its_list_only(operator: HttpCaller, alpha: Tenant) -> None:
    limited = await key_of(operator, "alpha", queues=["echo/one", "echo/two"])
    job = {"owner_service": "queues", "task_type": "echo"}
    allowed = await limited.call("POST", "/jobs", job | {"model_profile": "one"})
    assert allowed.status == 201
    refused = await limited.call("POST", "/jobs", job | {"model_profile": "three"})
    assert refused.outcome == (403, "forbidden")
    assert "echo/three" in refused.json["detail"]
    batch = {"defaults": job, "jobs": [{"model_profile": "two"}, {"model_profile": "three"}]}
    assert (await limited.call("POST", "/jobs/batch", batch)).outcome == (403, "forbidden")
    other = (await alpha.call("POST", "/jobs", job | {"model_profile": "three"})).json
    assert (await limited.call("GET", f"/jobs/{other['id']}")).outcome == (404, "not_found")
    listed = (await limited.call("GET", "/jobs?owner_service=queues")).json["jobs"]
    assert [one["id"] for one in listed] == [allowed.json["id"]]
    claimed = await limited.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 10})
    assert [one["id"] for one in claimed.json["jobs"]] == [allowed.json["id"]]
    wanted = {"worker_id": "w", "model_profiles": ["three"]}
    assert (await limited.call("POST", "/jobs/claim", wanted)).outcome == (403, "forbidden")


async def test_a_key_changes_and_watches_the_jobs_of_its_queues_only(operator: HttpCaller) -> None:
    name = "by-queue"
    assert (await operator.post("/tenants", {"name": name})).status == 201
    every = await key_of(operator, name)
    limited = await key_of(operator, name, queues=["echo/small"])
    mine, other = [
        (await every.call("POST", "/jobs", {"owner_service": "t", "task_type": "echo", "model_profile": profile})).json[
            "id"
        ]
        for profile in ("small", "large")
    ]
    url = f"{operator.address}/api/v1/events"
    async with operator.session.get(url, headers=limited.headers | {"Last-Event-ID": "0-0-0"}) as stream:
        begin = await within(stream.content.readuntil(b"\n\n"))
        for method in ("retry", "cancel"):
            assert (await limited.call("POST", f"/jobs/{other}/{method}")).status == 404
        assert (await limited.call("GET", f"/jobs/{other}/events")).status == 404
        for dry_run, count in ((True, 1), (False, 1), (False, 0)):
            body = {"status": "pending", "dry_run": dry_run}
            assert (await limited.call("POST", "/jobs/cancel", body)).json["count"] == count
        assert (await limited.call("POST", "/jobs/cancel", {"model_profile": "large"})).json["count"] == 0
        seen = begin + await within(stream.content.readuntil(b"job.cancelled"))
        assert mine.encode() in seen
        assert other.encode() not in seen
    assert (await every.call("GET", f"/jobs/{other}")).json["status"] == "pending"
    stats = (await limited.call("GET", "/stats")).json
    assert [queue["model_profile"] for queue in stats["queues"]] == ["small"]
    assert (stats["totals"]["pending"], stats["totals"]["cancelled"]) == (0, 1)
    listed = (await limited.call("GET", "/queues")).json["queues"]
    assert [queue["model_profile"] for queue in listed] == ["small"]
    assert (await every.call("GET", "/stats")).json["totals"]["pending"] == 1


async def test_a_key_whose_queues_are_not_all_pairs_of_its_names_must_state_which_it_claims(
    operator: HttpCaller,
) -> None:
    limited = await key_of(operator, "beta", queues=["a/one", "b/two"])
    refused = await limited.call("POST", "/jobs/claim", {"worker_id": "w"})
    assert refused.outcome == (403, "forbidden")
    assert "a/one, b/two" in refused.json["detail"]
    stated = {"worker_id": "w", "task_types": ["a"], "model_profiles": ["one", "two"]}
    assert (await limited.call("POST", "/jobs/claim", stated)).json == {"jobs": []}


async def test_changes_of_models_are_in_the_audit_log_without_secrets(
    operator: HttpCaller, alpha: Tenant, module_database_url: str, server: str
) -> None:
    options = {"url": f"{server}/x?api_key={SECRET}", "headers": {"Cookie": SECRET}}
    body = {"name": "audited", "runtime": "http", "http": options}
    assert (await alpha.call("POST", "/models", body)).status == 201
    assert (await alpha.call("POST", "/models/audited/reload")).status == 200
    assert (await alpha.call("DELETE", "/models/audited/logs")).status == 200
    assert (await alpha.call("DELETE", "/models/audited")).status == 204
    reply = await alpha.call("GET", "/audit?subject=audited")
    assert SECRET not in reply.body.decode()
    names = [one["action"] for one in reply.json["actions"]]
    assert names == ["model.remove", "model.clean_logs", "model.reload", "model.add"]
    assert reply.json["actions"][-1]["after"]["runtime"] == "http"
    async with open_database(module_database_url) as database:
        (left,) = await query(database, "SELECT manifest::text FROM penstock.model WHERE name = 'audited'")
    assert left == ("{}",), "nothing is kept of a model that was removed"


async def test_models_of_tenants_are_there_after_a_restart(
    alpha: Tenant, module_database_url: str, server: str
) -> None:
    assert (await alpha.add("lasting", server)).status == 201
    settings: dict[str, Any] = {"ai_service_token": Secret("operators-token"), "penstock_fetch_networks": LOOPBACK}
    async with running_gateway(module_database_url, **settings) as other:
        again = Tenant(other, "alpha", alpha.key)
        await within(_appears(other, "lasting"))
        assert (await again.predict("lasting")).json == {"path": "/alpha"}


async def _appears(caller: HttpCaller, name: str) -> None:
    """Wait until a gateway has read the models of alpha from the database."""
    host = caller.parts.models.host
    while True:
        seen = host.changes.count
        if ("alpha", name) in host.entries:
            return
        await host.changes.after(seen)


async def test_workers_resolve_the_model_of_a_job_by_its_tenant(
    operator: HttpCaller, alpha: Tenant, beta: Tenant, server: str
) -> None:
    for tenant in (alpha, beta):
        assert (await tenant.add("of-a-job", server)).status == 201
    models = operator.parts.models
    owners = [models.find("of-a-job", reader=Reader(tenant=name)).model.owner for name in ("alpha", "beta")]
    assert owners == ["alpha", "beta"]
    offered = await anext(HostedModels(models, operator.parts.uploads).names())
    places = [models.host.entries[owner, "of-a-job"].versions["1"].places for owner in ("alpha", "beta")]
    assert offered["of-a-job"] == Served(sum(places), frozenset({"alpha", "beta"}))
    assert offered["shared"].tenants is None
    assert "default" not in (offered["chosen"].tenants or {"default"})
    async with Client(operator.address, token="operators-token") as client:
        for tenant in (alpha, beta):
            found = await client.for_tenant(tenant.name).predict("of-a-job", {"text": "a"})
            assert found == {"path": f"/{tenant.name}"}


async def test_a_job_for_a_model_that_only_another_tenant_has_waits_until_its_own_has_one(
    operator: HttpCaller, alpha: Tenant, beta: Tenant, server: str
) -> None:
    models, executors = operator.parts.models, Executors()
    media = ResultMedia(blobs=operator.parts.blobs, larger_than=2**20)
    offering = asyncio.create_task(predict.offer(HostedModels(models, operator.parts.uploads), media, executors))
    worker = Worker(operator.parts.jobs, worker_id="w", executors=executors, limit=4, lease=timedelta(minutes=1))
    working = asyncio.create_task(worker.run())
    try:
        assert (await alpha.add("awaited", server)).status == 201
        job = {"owner_service": "t", "task_type": "predict", "model_profile": "awaited", "input": {"text": "a"}}
        early = (await beta.call("POST", "/jobs", job)).json
        done = (await alpha.call("POST", "/jobs", job)).json
        done = (await alpha.call("GET", f"/jobs/{done['id']}?wait=20")).json
        assert (done["status"], done["result"]) == ("completed", {"path": "/alpha"})
        early = (await beta.call("GET", f"/jobs/{early['id']}")).json
        assert (early["status"], early["attempt"]) == ("pending", 0)
        why = (await beta.call("GET", f"/jobs/{early['id']}/why")).json
        assert [reason["code"] for reason in why["reasons"]] == ["no_worker", "model_not_loaded"]
        assert (await beta.add("awaited", server)).status == 201
        early = (await beta.call("GET", f"/jobs/{early['id']}?wait=20")).json
        assert (early["status"], early["result"]) == ("completed", {"path": "/beta"})
    finally:
        offering.cancel()
        await worker.stop()
        await working


async def test_a_model_of_a_tenant_reaches_the_public_internet_and_the_networks_of_the_setting_only(
    operator: HttpCaller, alpha: Tenant, database_url: str, server: str
) -> None:
    for url in ("http://10.1.2.3:80", "http://[::1]:80", "http://169.254.169.254"):
        refused = await alpha.add("inside", url)
        assert (refused.status, refused.fields) == (422, ["http.url"]), url
    async with running_gateway(database_url, ai_service_token=Secret("operators-token")) as strict:
        assert (await strict.post("/tenants", {"name": "alpha"})).status == 201
        tenant = await key_of(strict, "alpha")
        assert (await tenant.add("direct", server)).fields == ["http.url"]
        by_name = server.replace("127.0.0.1", "localhost")
        assert (await tenant.add("named", by_name)).status == 201, "its address is not known yet"
        called = await tenant.predict("named")
        assert called.status != 200
        assert "is not on the public internet" in called.json["detail"]
        shared = {"name": "operators", "runtime": "http", "http": {"url": server}}
        assert (await strict.post("/models", shared)).status == 201
        assert (await tenant.predict("operators")).status == 200
