"""No tenant sees or changes what another has: every route, tried with the ids and names of another tenant's things.

The routes come from the gateway, so a new one is tested without a change here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

from penstock.masking import Secret
from penstock.tenants import scopes
from penstock.web.route import AnyRoute
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.waiting import within

MARK = "belongs-to-alpha"  # in everything that the first tenant has
ABSENT = "belongs-to-nobody"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EPOCH = re.compile(r'"epoch":\d+')
_LISTS = ("/jobs", "/stats", "/keys", "/callbacks", "/collections", f"/collections/{MARK}/items")
_ENDLESS = {"/api/v1/events"}  # tested separately


@dataclass
class Member:
    """A tenant with a key that has every scope a tenant can have."""

    caller: HttpCaller
    headers: dict[str, str]
    ids: list[str] = field(default_factory=list)
    epoch: int = 0

    async def call(self, method: str, path: str, value: Any = None, **headers: str) -> Reply:
        return await self.caller.call(method, path, value, headers=self.headers | headers)

    async def everything(self) -> list[Any]:
        """Return the state of all that it has."""
        found = [(await self.call("GET", f"/jobs/{one}")).json for one in self.ids if _is_job(one)]
        found += [(await self.call("GET", path)).json for path in _LISTS]
        for listed in found:
            _forget_times(listed)
        return found


def _is_job(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _forget_times(value: Any) -> None:
    """Remove what changes by itself."""
    if isinstance(value, dict):
        value.pop("last_used_at", None)
        value.pop("oldest_pending_seconds", None)
        value.pop("warnings", None)
        for part in value.values():
            _forget_times(part)
    elif isinstance(value, list):
        for part in value:
            _forget_times(part)


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


async def member(operator: HttpCaller, name: str) -> Member:
    assert (await operator.post("/tenants", {"name": name})).status == 201
    body = {"name": f"{name}s-key-{MARK if name == 'alpha' else ''}", "scopes": sorted(scopes.OF_TENANTS)}
    reply = await operator.call("POST", "/keys", body, headers={"Penstock-Tenant": name})
    return Member(operator, {"Authorization": f"Bearer {reply.json['key']}"}, [reply.json["id"]])


@pytest.fixture(scope="module")
async def alpha(operator: HttpCaller) -> Member:
    """A tenant that has one of everything."""
    alpha = await member(operator, "alpha")
    fields = {
        "owner_service": MARK,
        "owner_ref": MARK,
        "task_type": MARK,
        "model_profile": MARK,
        "tags": [MARK],
        "input": {"text": MARK},
    }

    async def submit(**more: Any) -> str:
        reply = await alpha.call("POST", "/jobs", fields | more)
        assert reply.status == 201, reply.body
        return str(reply.json["id"])

    async def claimed(**more: Any) -> tuple[str, int]:
        job_id = await submit(task_type=f"{MARK}-worked", **more)
        wanted = {"worker_id": MARK, "task_types": [f"{MARK}-worked"], "limit": 1}
        (job,) = (await alpha.call("POST", "/jobs/claim", wanted)).json["jobs"]
        return job_id, job["epoch"]

    completed, epoch = await claimed()
    await alpha.call("POST", f"/jobs/{completed}/complete", {"epoch": epoch, "result": {"text": MARK}})
    failed, epoch = await claimed(max_attempts=1)
    failure = {"epoch": epoch, "category": "internal", "message": MARK}
    assert (await alpha.call("POST", f"/jobs/{failed}/fail", failure)).status == 200
    running, alpha.epoch = await claimed()
    pending = await submit(idempotency_key=MARK)
    upload = await alpha.caller.call(
        "POST",
        f"/blobs?filename={MARK}.txt",
        body=MARK.encode(),
        headers=alpha.headers | {"Content-Type": "text/plain"},
    )
    assert upload.status == 201, upload.body
    callback = await alpha.call("POST", "/callbacks", {"url": f"https://hooks.example/{MARK}", "events": ["*"]})
    assert callback.status == 201, callback.body
    assert (await alpha.call("POST", "/collections", {"name": MARK, "dimension": 3, "metric": "l2"})).status == 201
    item = {"key": MARK, "vector": [1, 2, 3], "attributes": {"text": MARK}, "group": MARK}
    assert (await alpha.call("POST", f"/collections/{MARK}/items", {"items": [item]})).status == 200
    alpha.ids += [completed, failed, running, pending, upload.json["id"], callback.json["id"]]
    return alpha


@pytest.fixture(scope="module")
async def beta(operator: HttpCaller) -> Member:
    """A tenant that has nothing but its key."""
    return await member(operator, "beta")


def filled(route: AnyRoute, name: str) -> str:
    """Return the path of a route for one id or name."""
    return re.sub(r"\{\w+\}", name, route.path)


def body_with(example: Any, name: str, epoch: int) -> Any:
    """Return an example of a body about one thing, in its attempt ``epoch``."""
    if example is None:
        return None
    at_once = {"wait_seconds": 0} if "wait_seconds" in example else {}
    text = msgspec.json.encode(example | at_once).decode()
    return msgspec.json.decode(_EPOCH.sub(f'"epoch":{epoch}', _UUID.sub(name, text)))


def absent_like(name: str) -> str:
    """Return an id of the same form that nothing has."""
    return str(uuid7()) if _is_job(name) else "0" * len(name) if len(name) == 12 else ABSENT


def routes_of_tenants(operator: HttpCaller) -> list[AnyRoute]:
    return [
        route
        for route in operator.gateway.routes
        if route.scope is not None and route.scope != scopes.OPERATOR and route.path not in _ENDLESS
    ]


async def test_an_id_of_another_tenant_gets_the_response_of_an_unknown_id(
    operator: HttpCaller, alpha: Member, beta: Member
) -> None:
    before = await alpha.everything()
    tried = 0
    for route in routes_of_tenants(operator):
        names = [*alpha.ids, MARK, "alpha"] if "{" in route.path or route.request_example else [""]
        for name in names:
            other = absent_like(name)
            replies = []
            for one in (name, other):
                if any(parameter.type is UUID for parameter in route.path_parameters) and not _is_job(one):
                    continue
                value = body_with(route.request_example, one, alpha.epoch)
                reply = await within(beta.call(route.method, filled(route, one), value))
                replies.append((reply.status, comparable(reply.body, one)))
            if "{" in route.path and len(replies) == 2:
                tried += 1
                assert replies[0] == replies[1], f"{route.method} {route.path} with {name}"
                assert replies[0][0] in {400, 404, 409, 415, 422}, f"{route.method} {route.path} with {name}"
    assert tried > 50
    assert await alpha.everything() == before, "nothing of the other tenant has changed"


def comparable(body: bytes, name: str) -> str:
    """Return a response without the id in it, and without what differs from call to call."""
    text = re.sub(re.escape(name) or "^$", "ID", body.decode("latin-1"), flags=re.IGNORECASE)
    return _UUID.sub("UUID", re.sub(r'"(key|ticket|id|created_at|expires_at)":"[^"]*"', r'"\1":""', text))


async def test_lists_and_errors_show_nothing_of_another_tenant(
    operator: HttpCaller, alpha: Member, beta: Member
) -> None:
    for route in routes_of_tenants(operator):
        if route.method != "GET" or "{" in route.path:
            continue
        paths = [route.path]
        paths += [
            f"{route.path}?{parameter.name}={MARK}" for parameter in route.parameters if parameter.place == "query"
        ]
        for path in paths:
            reply = await within(beta.call("GET", path))
            shown = reply.body.decode("latin-1").replace(f"={MARK}", "")
            assert not (reply.status == 200 and MARK in shown), path
            for one in alpha.ids:
                assert one not in shown, path


async def test_another_tenants_idempotency_key_and_names_are_free(operator: HttpCaller, alpha: Member) -> None:
    other = await member(operator, "gamma")
    body = {"owner_service": MARK, "task_type": MARK, "model_profile": MARK, "idempotency_key": MARK}
    reply = await other.call("POST", "/jobs", body)
    assert reply.status == 201, "it is a job of its own"
    assert reply.json["id"] not in alpha.ids
    stats = (await other.call("GET", "/stats")).json
    assert stats["totals"]["pending"] == 1
    claimed = (await other.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 100})).json["jobs"]
    assert [job["id"] for job in claimed] == [reply.json["id"]], "its workers get its jobs only"


async def test_a_stream_of_events_holds_those_of_its_tenant_only(
    operator: HttpCaller, alpha: Member, beta: Member
) -> None:
    url = operator.address + "/api/v1/events"
    async with operator.session.get(url, headers=beta.headers) as stream:
        await within(stream.content.readuntil(b"id: "))
        fields = {"owner_service": MARK, "task_type": MARK, "model_profile": MARK}
        assert (await alpha.call("POST", "/jobs", fields)).status == 201
        own = (await beta.call("POST", "/jobs", fields | {"owner_service": "beta", "owner_ref": "the last"})).json["id"]
        seen = await within(stream.content.readuntil(own.encode()))
        assert seen.count(b"event: job.created") == 1


async def test_an_operators_worker_gets_every_tenants_jobs_with_their_tenant(
    operator: HttpCaller, alpha: Member, beta: Member
) -> None:
    for each in (alpha, beta):
        await each.call("POST", "/jobs", {"owner_service": "s", "task_type": "shared", "model_profile": "p"})
    jobs = await operator.claim(task_types=["shared"])
    assert sorted(job["tenant"] for job in jobs) == ["alpha", "beta"]
