"""Keys over HTTP: what they allow, who may make them, and what the audit log records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.access import service
from penstock.masking import Secret
from penstock.tenants import scopes
from tests.support.databases import open_database, query
from tests.support.gateways import SUBMISSION, HttpCaller, Reply, running_gateway
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def create(
    caller: HttpCaller, *held: str, headers: dict[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    reply = await caller.call("POST", "/keys", {"name": "test", "scopes": list(held), **fields}, headers=headers)
    assert reply.status == 201, reply.body
    created: dict[str, Any] = reply.json
    return created


async def get(caller: HttpCaller, path: str, key: str, **headers: str) -> Reply:
    return await caller.call("GET", path, headers=bearer(key) | headers)


async def test_the_scopes_of_a_key_decide_what_it_may_do(operator: HttpCaller) -> None:
    key = (await create(operator, "jobs:read"))["key"]
    assert (await get(operator, "/jobs", key)).status == 200
    refused = await operator.call("POST", "/jobs", SUBMISSION, headers=bearer(key))
    assert refused.outcome == (403, "scope_missing")
    assert "jobs:submit" in refused.json["detail"]


async def test_the_text_of_a_key_is_shown_once_and_stored_nowhere(
    operator: HttpCaller, module_database_url: str
) -> None:
    created = await create(operator, "jobs:read")
    text = created["key"]
    for path in (f"/keys/{created['id']}", "/keys", "/audit"):
        reply = await operator.get(path)
        assert reply.status == 200
        assert text not in reply.body.decode()
    secret = text.split("_")[2][:43]
    async with open_database(module_database_url) as database:
        for table in ("api_key", "audit"):
            rows = await query(database, f"SELECT to_json(t)::text FROM penstock.{table} t")
            assert rows
            assert not [row for (row,) in rows if secret in row]


async def test_spellings_of_one_header_take_little_memory(operator: HttpCaller) -> None:
    key = await create(operator, "jobs:read")
    cache = operator.parts.access.cache
    before = len(cache._by_header)
    for spaces in range(1, 60):
        reply = await operator.call("GET", "/identity", headers={"Authorization": f"bearer{' ' * spaces}{key['key']}"})
        assert reply.status == 200
    assert len(cache._by_header) - before <= 16
    await operator.post(f"/keys/{key['id']}/revoke")
    await until(lambda: len(cache._by_header) <= before, "they are forgotten with their key")


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key[:20] + ("a" if key[20] != "a" else "b") + key[21:],
        lambda key: key.replace("ps_", "px_"),
        lambda _key: "",
    ],
)
async def test_a_wrong_key_is_401(operator: HttpCaller, change: Any) -> None:
    key = (await create(operator, "jobs:read"))["key"]
    reply = await get(operator, "/jobs", change(key))
    assert reply.outcome == (401, "unauthorized")


async def test_a_key_of_another_secret_is_401(operator: HttpCaller) -> None:
    from penstock.access import keys

    known = (await create(operator, "jobs:read"))["key"]
    body = known[:16] + keys.generate().text.reveal()[16:-6]
    forged = body + keys._checksum(body)
    assert keys.id_of(forged) == known[3:15]
    assert (await get(operator, "/jobs", forged)).outcome == (401, "unauthorized")
    assert (await get(operator, "/jobs", known)).status == 200


async def test_a_key_gives_at_most_its_own_rights(operator: HttpCaller) -> None:
    admin = (await create(operator, "tenant:admin", "jobs:read", queues=["echo/small"]))["key"]
    over = {"name": "x", "scopes": ["jobs:read", "jobs:work"], "queues": ["echo/small"]}
    assert (await operator.call("POST", "/keys", over, headers=bearer(admin))).outcome == (403, "scope_missing")
    for queues in (None, ["echo/large"], ["echo/small", "echo/large"]):
        body = {"name": "x", "scopes": ["jobs:read"], "queues": queues}
        reply = await operator.call("POST", "/keys", body, headers=bearer(admin))
        assert (reply.status, reply.fields) == (422, ["queues"])
    narrower = await create(operator, "jobs:read", headers=bearer(admin), queues=["echo/small"])
    widened = await operator.call("PATCH", f"/keys/{narrower['id']}", {"queues": None}, headers=bearer(admin))
    assert (widened.status, widened.fields) == (422, ["queues"])
    stronger = await create(operator, "jobs:work")
    taken = await operator.call("PATCH", f"/keys/{stronger['id']}", {"name": "mine"}, headers=bearer(admin))
    assert taken.outcome == (403, "scope_missing"), "nor may it change a key with more rights"
    rotated = await operator.call("POST", f"/keys/{stronger['id']}/rotate", {}, headers=bearer(admin))
    assert rotated.outcome == (403, "scope_missing"), "nor take it over by rotation"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["jobs:raed"]}, "scopes[0]"),
        ({"name": "x" * 201, "scopes": ["files"]}, "name"),
        ({"name": "x\n", "scopes": ["files"]}, "name"),
        ({"name": "x", "scopes": ["files"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "scopes": ["files"], "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "scopes": ["files"], "expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"name": "x", "scopes": ["files"], "models": ["x"] * 101}, "models"),
        ({"name": "x", "scopes": ["files"], "extra": 1}, "extra"),
    ],
)
async def test_a_mistake_names_its_field(operator: HttpCaller, body: dict[str, Any], field: str) -> None:
    reply = await operator.post("/keys", body)
    assert reply.status == 422
    assert field in reply.fields


async def test_an_expired_key_is_401(operator: HttpCaller, module_database_url: str) -> None:
    created = await create(operator, "jobs:read", expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    async with open_database(module_database_url) as database:
        await query(database, "UPDATE penstock.api_key SET expires_at = now() WHERE id = $1", created["id"])
    reply = await get(operator, "/jobs", created["key"])
    assert reply.outcome == (401, "unauthorized")
    assert "expired" in reply.json["detail"]


async def test_both_keys_of_a_rotation_are_valid_until_the_overlap_ends(operator: HttpCaller) -> None:
    old = await create(operator, "jobs:read", queues=["echo/small"])
    new = (await operator.post(f"/keys/{old['id']}/rotate", {"overlap_seconds": 3600})).json
    assert new["queues"] == ["echo/small"]
    for key in (old["key"], new["key"]):
        assert (await get(operator, "/jobs", key)).status == 200
    kept = (await operator.get(f"/keys/{old['id']}")).json
    assert kept["replaced_by"] == new["id"]
    assert datetime.fromisoformat(kept["expires_at"]) < datetime.now(UTC) + timedelta(seconds=3601)
    again = await operator.post(f"/keys/{old['id']}/rotate", {})
    assert again.outcome == (409, "wrong_state"), "at most two are valid"
    await operator.post(f"/keys/{new['id']}/rotate", {"overlap_seconds": 0})

    async def expired() -> bool:
        return (await get(operator, "/jobs", new["key"])).status == 401

    await until(expired, "the overlap has ended")


async def test_rotations_count_against_the_number_of_valid_keys(
    operator: HttpCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await operator.post("/tenants", {"name": "many"})).status == 201
    many = {"Penstock-Tenant": "many"}
    key = await create(operator, "jobs:read", headers=many)
    monkeypatch.setattr(service, "_MAX_KEYS", 2)
    replies = []
    for _ in range(2):
        replies.append(await operator.call("POST", f"/keys/{key['id']}/rotate", {}, headers=many))
        key = replies[-1].json
    assert replies[0].status == 201
    assert replies[1].outcome == (503, "overloaded")


async def test_an_operator_acts_for_a_tenant(operator: HttpCaller) -> None:
    assert (await operator.post("/tenants", {"name": "acting", "time_zone": "Europe/Berlin"})).status == 201
    key = (await create(operator, "jobs:submit", "jobs:read", headers={"Penstock-Tenant": "acting"}))["key"]
    job = (await operator.call("POST", "/jobs", SUBMISSION, headers=bearer(key))).json
    assert (await operator.get(f"/jobs/{job['id']}")).status == 404
    assert (await operator.get(f"/jobs/{job['id']}", Penstock_Tenant="acting")).status == 200
    identity = await get(operator, "/identity", key, **{"Penstock-User": "u1"})
    assert (identity.json["tenant"], identity.json["user"]) == ("acting", "u1")
    assert (await get(operator, "/jobs", key, **{"Penstock-Tenant": "default"})).outcome == (403, "scope_missing")
    assert (await operator.get("/jobs", Penstock_Tenant="nobody")).status == 404


async def test_a_tenant_cannot_make_an_operator(operator: HttpCaller) -> None:
    await operator.post("/tenants", {"name": "modest"})
    body = {"name": "x", "scopes": ["operator"]}
    reply = await operator.call("POST", "/keys", body, headers={"Penstock-Tenant": "modest"})
    assert (reply.status, reply.fields) == (422, ["scopes"])


async def test_each_action_is_recorded_in_the_log_of_its_tenant(operator: HttpCaller) -> None:
    await operator.post("/tenants", {"name": "watched"})
    acting = {"Penstock-Tenant": "watched", "Penstock-User": "ada"}
    key = await create(operator, "jobs:read", headers=acting)
    await operator.call("PATCH", f"/keys/{key['id']}", {"scopes": ["files", "jobs:read"]}, headers=acting)
    await operator.call("POST", f"/keys/{key['id']}/revoke", headers=acting)
    await operator.call("POST", f"/keys/{key['id']}/revoke", headers=acting)
    await operator.call("PATCH", "/tenants/watched", {"suspended": True})
    recorded = (await operator.call("GET", "/audit", headers=acting)).json["actions"]
    assert [(one["action"], one["subject"]) for one in recorded] == [
        ("tenant.change", "watched"),
        ("key.revoke", key["id"]),
        ("key.change", key["id"]),
        ("key.create", key["id"]),
        ("tenant.create", "watched"),
    ]
    changed = recorded[2]
    assert (changed["before"], changed["after"]) == ({"scopes": ["jobs:read"]}, {"scopes": ["files", "jobs:read"]})
    assert (changed["user_id"], changed["address"], changed["key_id"]) == ("ada", "127.0.0.1", None)
    assert [one["action"] for one in (await operator.call("GET", "/audit?limit=1", headers=acting)).json["actions"]]
    page = (await operator.call("GET", "/audit?action=key.change&limit=1", headers=acting)).json
    assert [one["id"] for one in page["actions"]] == [changed["id"]]


async def test_a_failed_action_is_not_recorded(operator: HttpCaller) -> None:
    before = (await operator.get("/audit?limit=1")).json
    assert (await operator.call("POST", "/keys/nothere00000/revoke")).status == 404
    assert (await operator.post("/tenants", {"name": "default"})).outcome == (409, "already_exists")
    assert (await operator.get("/audit?limit=1")).json == before


@pytest.mark.parametrize("name", ["acme\n", "\nacme", "acme\r", "Acme", "", "a" * 64, "äcme", "a b"])
async def test_a_wrong_name_of_a_tenant_is_refused(operator: HttpCaller, name: str) -> None:
    reply = await operator.post("/tenants", {"name": name})
    assert (reply.status, reply.fields) == (422, ["name"])


async def test_suspending_the_default_tenant_is_refused(operator: HttpCaller) -> None:
    reply = await operator.call("PATCH", "/tenants/default", {"suspended": True})
    assert (reply.status, reply.fields) == (422, ["suspended"])


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", ""])
async def test_a_wrong_time_zone_is_refused(operator: HttpCaller, zone: str) -> None:
    reply = await operator.post("/tenants", {"name": "zoned", "time_zone": zone})
    assert (reply.status, reply.fields) == (422, ["time_zone"])


async def test_the_operator_scope_allows_everything(operator: HttpCaller) -> None:
    key = (await create(operator, "operator"))["key"]
    assert set((await get(operator, "/identity", key)).json["scopes"]) == scopes.ALL
    assert (await get(operator, "/metrics", key)).status == 200
    assert (await get(operator, "/tenants", key)).status == 200


async def test_the_user_that_a_sender_states_is_text_in_utf_8(operator: HttpCaller) -> None:
    key = (await create(operator, "jobs:read"))["key"]
    reply = await get(operator, "/identity", key, **{"Penstock-User": "Zoë Āda"})
    assert reply.json["user"] == "Zoë Āda"
    for wrong in ("x" * 201, "a\x80b"):
        refused = await get(operator, "/identity", key, **{"Penstock-User": wrong})
        assert (refused.status, refused.fields) == (422, ["Penstock-User"])
