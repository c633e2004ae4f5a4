"""Revoked keys, suspended tenants and removed scopes: also on requests that are open, and at other gateways."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from penstock.access import store
from penstock.access.key_watch import TOPIC
from penstock.masking import Secret
from tests.support.databases import open_database, query
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway
from tests.support.waiting import until, within

TOKEN = Secret("operators-token")
SLOW = """
import threading
class Model:
    def predict(self, value: str) -> str:
        threading.Event().wait()
        return value
"""


class Gateways(NamedTuple):
    """Two gateways on one database: keys are managed at the first and used at the second."""

    first: HttpCaller
    second: HttpCaller


@pytest.fixture(scope="module")
async def gateways(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    folder = tmp_path_factory.mktemp("models")
    model = folder / "slow"
    model.mkdir()
    (model / "model.py").write_text(textwrap.dedent(SLOW))
    (model / "model.toml").write_text('name = "slow"\nruntime = "python"\n[python]\nclass = "model:Model"\n')
    async with (
        running_gateway(module_database_url, ai_service_token=TOKEN) as first,
        running_gateway(module_database_url, ai_service_token=TOKEN, models_folder=folder) as second,
    ):
        yield Gateways(first, second)


async def new_key(caller: HttpCaller, *held: str, tenant: str = "default", **fields: Any) -> dict[str, Any]:
    body = {"name": "test", "scopes": list(held) or ["jobs:read", "jobs:submit", "jobs:work", "models:call"], **fields}
    reply = await caller.call("POST", "/keys", body, headers={"Penstock-Tenant": tenant})
    assert reply.status == 201, reply.body
    created: dict[str, Any] = reply.json
    return created


def bearer(key: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['key']}"}


async def status(caller: HttpCaller, key: dict[str, Any], path: str = "/jobs") -> int:
    return (await caller.call("GET", path, headers=bearer(key))).status


async def revoked_events(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Read a stream to its end and return the problem in its last event."""
    text = (await within(response.content.read())).decode()
    last = text.rstrip().rpartition("\n\n")[2]
    assert last.startswith("event: revoked\n"), text
    problem: dict[str, Any] = json.loads(last.partition("data: ")[2])
    return problem


async def test_a_revoked_key_is_refused_by_every_gateway(gateways: Gateways) -> None:
    key = await new_key(gateways.first)
    assert await status(gateways.first, key) == await status(gateways.second, key) == 200
    assert (await gateways.first.call("POST", f"/keys/{key['id']}/revoke")).status == 200

    async def refused() -> bool:
        return await status(gateways.second, key) == 401

    await until(refused, "the other gateway refuses the key", seconds=2)
    assert await status(gateways.first, key) == 401


async def test_a_revocation_is_seen_without_a_wakeup(gateways: Gateways, module_database_url: str) -> None:
    key = await new_key(gateways.first)
    assert await status(gateways.second, key) == 200
    async with open_database(module_database_url) as database:  # as if the notice of another process was lost
        await query(
            database,
            "WITH g AS (UPDATE penstock.access_generation SET generation = generation + 1 RETURNING generation)"
            " UPDATE penstock.api_key SET revoked_at = now(), changed = (SELECT generation FROM g) WHERE id = $1"
            " RETURNING id",
            key["id"],
        )

    async def refused() -> bool:
        return await status(gateways.second, key) == 401

    await until(refused, "the gateway refuses the key", seconds=2)


async def test_open_streams_and_waits_end_with_the_reason(gateways: Gateways) -> None:
    key = await new_key(gateways.first)
    job = (await gateways.second.call("POST", "/jobs", SUBMISSION, headers=bearer(key))).json
    url = gateways.second.address + f"/api/v1/jobs/{job['id']}/events"
    async with gateways.second.session.get(url, headers=bearer(key)) as stream:
        await within(stream.content.readuntil(b"job.created"))
        wait = gateways.second.call("GET", f"/jobs/{job['id']}?wait=60", headers=bearer(key))
        claim = gateways.second.call(
            "POST", "/jobs/claim", {"worker_id": "w", "task_types": ["x"], "wait_seconds": 60}, headers=bearer(key)
        )
        waits = [asyncio.create_task(wait), asyncio.create_task(claim)]
        await until(lambda: len(gateways.second.in_progress) == 3, "all are open")
        await gateways.first.call("POST", f"/keys/{key['id']}/revoke")
        problem = await revoked_events(stream)
        assert (problem["code"], problem["detail"]) == ("unauthorized", "this key was revoked")
        for reply in await within(asyncio.gather(*waits)):
            assert reply.outcome == (401, "unauthorized")


async def test_an_open_call_of_a_model_ends(gateways: Gateways) -> None:
    key = await new_key(gateways.first)
    calling = asyncio.create_task(
        gateways.second.call("POST", "/models/slow/predict", {"value": "x"}, headers=bearer(key))
    )
    await until(lambda: "/api/v1/models/slow/predict" in gateways.second.in_progress, "the call is running")
    await gateways.first.call("POST", f"/keys/{key['id']}/revoke")
    assert (await within(calling)).outcome == (401, "unauthorized")


async def test_a_removed_scope_ends_only_what_needs_it(gateways: Gateways) -> None:
    key = await new_key(gateways.first)
    job = (await gateways.second.call("POST", "/jobs", SUBMISSION, headers=bearer(key))).json
    claim = asyncio.create_task(
        gateways.second.call(
            "POST", "/jobs/claim", {"worker_id": "w", "task_types": ["x"], "wait_seconds": 60}, headers=bearer(key)
        )
    )
    url = gateways.second.address + f"/api/v1/jobs/{job['id']}/events"
    async with gateways.second.session.get(url, headers=bearer(key)) as stream:
        await within(stream.content.readuntil(b"job.created"))
        await until(lambda: len(gateways.second.in_progress) == 2, "both are open")
        await gateways.first.call("PATCH", f"/keys/{key['id']}", {"scopes": ["jobs:work", "jobs:submit"]})
        problem = await revoked_events(stream)
        assert "jobs:read" in problem["detail"]
    assert not claim.done()
    refused = await gateways.second.call("GET", f"/jobs/{job['id']}", headers=bearer(key))
    assert refused.outcome == (403, "scope_missing")
    await gateways.first.call("POST", f"/keys/{key['id']}/revoke")
    assert (await within(claim)).status == 401


async def test_a_suspended_tenant_is_refused_and_resumed(gateways: Gateways) -> None:
    await gateways.first.post("/tenants", {"name": "late-payer"})
    key = await new_key(gateways.first, tenant="late-payer")
    url = gateways.second.address + "/api/v1/events"
    async with gateways.second.session.get(url, headers=bearer(key)) as stream:
        await within(stream.content.readuntil(b"id: "))
        await gateways.first.call("PATCH", "/tenants/late-payer", {"suspended": True})
        assert "suspended" in (await revoked_events(stream))["detail"]
    assert await status(gateways.second, key) == 401
    assert await status(gateways.first, key) == 401
    await gateways.first.call("PATCH", "/tenants/late-payer", {"suspended": False})
    assert await status(gateways.second, key) == 200


async def test_an_idle_key_that_expires_ends_its_streams(gateways: Gateways, module_database_url: str) -> None:
    key = await new_key(gateways.first)
    url = gateways.second.address + "/api/v1/events"
    async with gateways.second.session.get(url, headers=bearer(key)) as stream:
        await within(stream.content.readuntil(b"id: "))
        async with open_database(module_database_url) as database:
            await query(
                database,
                "WITH g AS (UPDATE penstock.access_generation SET generation = generation + 1 RETURNING generation)"
                " UPDATE penstock.api_key SET expires_at = now() + interval '1 s', changed = (SELECT generation FROM g)"
                " WHERE id = $1 RETURNING id",
                key["id"],
            )
        assert "expired" in (await revoked_events(stream))["detail"]


async def test_a_change_between_reading_and_caching_a_key_is_not_missed(gateways: Gateways) -> None:
    """A key that was read before its revocation is not cached after the gateway has seen the revocation."""
    cache, watch = gateways.second.parts.access.cache, gateways.second.parts.access.watch
    key = await new_key(gateways.first)
    read = cache._reading._handle  # the statement, which is held back after it has returned
    held, seen = asyncio.Event(), asyncio.Event()

    async def late(ids: Any) -> Any:
        found = await read(ids)
        held.set()
        await seen.wait()
        return found

    cache._reading._handle = late
    try:
        asking = asyncio.create_task(gateways.second.call("GET", "/jobs", headers=bearer(key)))
        await within(held.wait())
        await gateways.first.call("POST", f"/keys/{key['id']}/revoke")
        other = await new_key(gateways.first)  # so that the gateway has a key to watch
        await watch.once()
        cache.generation = max(cache.generation, 1)
        seen.set()
        assert (await within(asking)).status == 401
        assert await status(gateways.second, other) == 200
    finally:
        cache._reading._handle = read


async def test_a_revocation_that_is_applied_while_the_key_is_read_is_not_missed(
    gateways: Gateways, module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is cached while the gateway reads the other keys that changed with it."""
    known, key = await new_key(gateways.first), await new_key(gateways.first)
    assert await status(gateways.second, known) == 200
    read, applying, revoked, entered = store.keys, asyncio.Event(), asyncio.Event(), asyncio.Event()
    before = asyncio.Event()

    async def held(connection: Any, ids: Any) -> Any:
        found = await read(connection, ids)
        if list(ids) == [key["id"]] and not before.is_set():
            before.set()
            await revoked.wait()
        elif known["id"] in ids and before.is_set():
            applying.set()
            await entered.wait()
        return found

    monkeypatch.setattr(store, "keys", held)
    asking = asyncio.create_task(status(gateways.second, key))
    await within(before.wait())
    async with open_database(module_database_url) as database:
        await query(
            database,
            "WITH g AS (UPDATE penstock.access_generation SET generation = generation + 1 RETURNING generation)"
            " UPDATE penstock.api_key SET revoked_at = CASE WHEN id = $1 THEN now() END,"
            " changed = (SELECT generation FROM g) WHERE id IN ($1, $2) RETURNING id",
            key["id"],
            known["id"],
        )
    await within(applying.wait())
    revoked.set()
    await within(asking)
    entered.set()

    async def refused() -> bool:
        return await status(gateways.second, key) == 401

    await until(refused, "the gateway refuses the key", seconds=2)


async def test_unknown_keys_do_not_load_the_database(gateways: Gateways) -> None:
    from penstock.access import keys

    cache = gateways.second.parts.access.cache
    statements = 0
    read = cache._reading._handle

    async def counted(ids: Any) -> Any:
        nonlocal statements
        statements += 1
        return await read(ids)

    cache._reading._handle = counted
    try:
        unknown = [keys.generate().text.reveal() for _ in range(300)]
        replies = await asyncio.gather(*(status(gateways.second, {"key": one}) for one in unknown))
        assert set(replies) == {401}
        assert statements < 100, "they are read in batches, one at a time"
        before = statements
        assert {await status(gateways.second, {"key": unknown[0]}) for _ in range(20)} == {401}
        assert statements <= before + 2, "and remembered for a second"
        assert {await status(gateways.second, {"key": unknown[0][:-1] + "!"}) for _ in range(5)} == {401}
    finally:
        cache._reading._handle = read


async def test_a_gateway_without_its_database_serves_known_keys_for_a_while(
    gateways: Gateways, module_database_url: str, tmp_path: Path
) -> None:
    key = await new_key(gateways.first)
    async with running_gateway(
        module_database_url, ai_service_token=TOKEN, penstock_auth_stale=timedelta(seconds=1)
    ) as caller:
        assert await status(caller, key, "/identity") == 200
        await caller.parts.database.close()
        caller.parts.database.url = f"postgresql://nobody@/none?host={tmp_path}"
        assert await status(caller, key, "/identity") == 200, "known keys are valid for a while"

        async def refused() -> bool:
            return await status(caller, key, "/identity") == 503

        await until(refused, "after that they cannot be checked", seconds=10)
        assert (await caller.get("/identity")).status == 200, "the token needs no database"


async def test_a_gateway_that_has_not_polled_lately_queries_the_database(
    gateways: Gateways, module_database_url: str
) -> None:
    """The process may have been stopped (SIGSTOP), or its event loop blocked."""
    key = await new_key(gateways.first)
    async with running_gateway(module_database_url, ai_service_token=TOKEN) as late:
        assert await status(late, key) == 200
        await late.parts.access.watch.stop()
        await gateways.first.call("POST", f"/keys/{key['id']}/revoke")

        async def refused() -> bool:
            return await status(late, key) == 401

        await until(refused, "the gateway refuses the key", seconds=2)


async def test_a_restore_during_an_outage_is_noticed_even_with_the_same_number(
    gateways: Gateways, module_database_url: str, tmp_path: Path
) -> None:
    key = await new_key(gateways.first)
    async with running_gateway(module_database_url, ai_service_token=TOKEN) as caller:
        assert await status(caller, key) == 200
        cache, database = caller.parts.access.cache, caller.parts.database
        url = database.url
        await database.close()
        database.url = f"postgresql://nobody@/none?host={tmp_path}"
        await until(lambda: cache.lost, "the outage is noticed")
        async with open_database(module_database_url) as other:
            await query(other, "DELETE FROM penstock.api_key WHERE id = $1 RETURNING id", key["id"])
        await database.close()
        database.url = url

        async def refused() -> bool:
            return await status(caller, key) == 401

        await until(refused, "the gateway refuses the key", seconds=5)


async def test_the_last_use_of_a_key_is_recorded(gateways: Gateways) -> None:
    key = await new_key(gateways.first)
    assert (await gateways.first.get(f"/keys/{key['id']}")).json.get("last_used_at") is None
    assert await status(gateways.second, key) == 200
    watch = gateways.second.parts.access.watch
    watch._minute_at = 0.0
    await watch.once()
    assert (await gateways.first.get(f"/keys/{key['id']}")).json["last_used_at"].endswith(":00Z")


async def test_a_locked_key_does_not_delay_revocations(gateways: Gateways, module_database_url: str) -> None:
    key = await new_key(gateways.first)
    assert await status(gateways.second, key) == 200
    watch = gateways.second.parts.access.watch
    async with open_database(module_database_url) as database, database.acquire() as other, other.transaction():
        await other.execute("SELECT FROM penstock.api_key WHERE id = $1 FOR UPDATE", key["id"])
        watch._minute_at = 0.0
        await within(watch.once(), 5)


def test_the_topic_of_wakeups_is_stable() -> None:
    assert TOPIC == "access"


@pytest.mark.parametrize("by_key", [False, True])
async def test_an_operators_ticket_for_a_tenant_ends_with_its_suspension(gateways: Gateways, by_key: bool) -> None:
    name = f"ticketed-{by_key}".lower()
    await gateways.first.post("/tenants", {"name": name})
    headers = {"Penstock-Tenant": name} | (bearer(await new_key(gateways.first, "operator")) if by_key else {})
    wanted = {"scopes": ["jobs:read"], "ttl_seconds": 3600}
    ticket = (await gateways.first.call("POST", "/tickets", wanted, headers=headers)).json["ticket"]
    await gateways.first.call("POST", "/jobs", SUBMISSION, headers=headers)
    url = f"{gateways.second.address}/api/v1/events?ticket={ticket}"
    async with aiohttp.ClientSession() as browser:
        async with browser.get(url) as stream:
            assert stream.status == 200
            await within(stream.content.readuntil(b"\n"))
            await gateways.first.call("PATCH", f"/tenants/{name}", {"suspended": True})
            assert "suspended" in (await revoked_events(stream))["detail"]
        async with browser.get(url) as refused:
            assert refused.status == 401
        await gateways.first.call("PATCH", f"/tenants/{name}", {"suspended": False})

        async def valid() -> bool:
            async with browser.get(url) as stream:
                return stream.status == 200

        await until(valid, "the ticket is valid again")
