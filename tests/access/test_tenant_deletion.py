"""Deleting a tenant: all that it owns is deleted, step by step, and nothing of any other tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from penstock.blobs.service import BlobService
from penstock.housekeeping import tenant_removal
from penstock.housekeeping.sweeper import Sweeper
from penstock.housekeeping.tenant_removal import TenantRemoval
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.usage.sql import rollup
from tests.support.clocks import Clock
from tests.support.databases import execute, open_database, query
from tests.support.gateways import SUBMISSION, HttpCaller, Reply
from tests.support.quotas import TenantCaller, gateways, new_tenant, run_job

PASSING = {"quota_slice"}  # tables whose rows the gateway removes in the meantime
LEAVES = "SELECT leaf FROM tenant_leaves() WHERE root <> 'former_tenant'"


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with gateways(module_database_url, 1) as (caller,):
        yield caller


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as database:
        yield database


@pytest.fixture
async def clock(database: Database) -> AsyncIterator[Clock]:
    clock = Clock(database)
    yield clock
    await clock.reset()


@pytest.fixture
async def tenant(operator: HttpCaller) -> TenantCaller:
    return await filled(operator)


async def filled(operator: HttpCaller) -> TenantCaller:
    """Return a tenant with jobs in every state, a file, quotas with use, limits, a collection, and usage."""
    tenant = await new_tenant(operator)
    await tenant.set_quota("jobs", 1000, "day", user="*")
    await tenant.set_quota("pending_jobs", 1000, user="*")
    await run_job(tenant, user="ada", prompt_tokens=5)
    credentials = {"name": "scanner", "app_id": "scanner", "services": ["echo"]}
    assert (await tenant.call("POST", "/athena/keys", credentials)).status == 201
    await tenant.submit(user_id="ada", idempotency_key="once")
    (failing,) = (await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 1})).json["jobs"]
    await tenant.call(
        "POST", f"/jobs/{failing['id']}/fail", {"epoch": failing["epoch"], "category": "internal", "message": "m"}
    )
    await tenant.submit(user_id="ada", run_at="2100-01-01T00:00:00Z", ttl_seconds=10**7)
    for _ in range(3):
        await tenant.submit(user_id="ada")
    assert len((await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 1})).json["jobs"]) == 1
    named = {"Penstock-Tenant": tenant.tenant}
    blob = await operator.call("POST", "/blobs", body=b"x" * 100, headers=named)
    assert blob.status == 201, blob.body
    await operator.call("POST", "/collections", {"name": "things", "dimension": 2}, headers=named)
    items = {"items": [{"key": "a", "vector": [1, 2]}]}
    written = await operator.call("POST", "/collections/things/items", items, headers=named)
    assert written.status == 200, written.body
    limits = {"weight": 2, "max_running": 50, "queues": []}
    await operator.call("PUT", f"/tenants/{tenant.tenant}/limits", limits)
    await tenant.step()
    return tenant


async def rows(database: Database, tenant: TenantCaller) -> dict[str, int]:
    """Return how many rows each table has of a tenant."""
    ((number,),) = await query(
        database,
        "SELECT max(id) FROM (SELECT id, name FROM tenant UNION SELECT id, split_part(name, '@', 1)"
        " FROM former_tenant) t WHERE name = $1",
        tenant.tenant,
    )
    found = {}
    for (leaf,) in await query(database, LEAVES):
        ((count,),) = await query(database, f"SELECT count(*) FROM ONLY {leaf} WHERE tenant_id = $1", number)
        if count:
            found[leaf] = count
    return found


def removal(database: Database) -> TenantRemoval:
    blobs = BlobService(database, max_bytes=0, keep=timedelta(days=1))
    return TenantRemoval(database, Sweeper(database, blobs), Wakeups(database))


async def roll_up(database: Database) -> None:
    async with database.acquire() as connection:
        while await rollup.roll_up(connection):
            pass


async def run(duty: TenantRemoval) -> None:
    while await duty.once():
        pass


async def delete(tenant: TenantCaller, query: str = "") -> Reply:
    """Suspend a tenant and request its deletion, as the operator."""
    await tenant.caller.call("PATCH", f"/tenants/{tenant.tenant}", {"suspended": True})
    return await tenant.caller.call("DELETE", f"/tenants/{tenant.tenant}{query}")


async def finished(tenant: TenantCaller, database: Database, clock: Clock, query: str = "") -> None:
    """Delete a tenant, and run the duty until it is gone."""
    assert (await delete(tenant, query)).status == 202
    duty = removal(database)
    await run(duty)
    await roll_up(database)
    await clock.advance(timedelta(minutes=2))
    for _ in range(5):
        await run(duty)
    assert (await tenant.caller.get(f"/tenants/{tenant.tenant}")).status == 404


async def test_everything_that_a_tenant_owns_is_deleted_and_nothing_of_others(
    tenant: TenantCaller, operator: HttpCaller, database: Database, clock: Clock
) -> None:
    other = await filled(operator)
    await roll_up(database)
    before = await rows(database, other)
    assert {"collection", "collection_item"} <= before.keys()
    assert {"api_key", "blob", "ready", "later", "lease", "quota_use", "quota_job", "idempotency"} <= before.keys()
    owned = await rows(database, tenant)
    assert before.keys() - {"usage_dims", *PASSING} <= owned.keys()
    await finished(tenant, database, clock)
    assert (await rows(database, tenant)).keys() == {"usage_dims", "usage_hour", "usage_day", "usage_month"}
    after = await rows(database, other)
    assert {leaf: count for leaf, count in after.items() if leaf not in PASSING} == {
        leaf: count for leaf, count in before.items() if leaf not in PASSING
    }
    assert (await other.submit()).status == 201


async def test_sums_of_usage_are_kept_under_the_name_and_the_day(
    tenant: TenantCaller, operator: HttpCaller, database: Database, clock: Clock
) -> None:
    """Usage that was not rolled up when the tenant was deleted is in them too."""
    await finished(tenant, database, clock)
    report = await operator.get("/usage?from=2020-01-01&to=2100-01-01&by=tenant")
    sums = {group["tenant"]: group["prompt_tokens"] for group in report.json["groups"]}
    (name,) = [name for name in sums if name.startswith(tenant.tenant)]
    assert (name.partition("@")[0], sums[name]) == (tenant.tenant, 5)
    again = await operator.call("POST", "/tenants", {"name": tenant.tenant})
    assert again.status == 201  # the name is free


async def test_with_usage_the_sums_go_too(tenant: TenantCaller, database: Database, clock: Clock) -> None:
    await roll_up(database)
    ((number,),) = await query(database, "SELECT id FROM tenant WHERE name = $1", tenant.tenant)
    await finished(tenant, database, clock, "?with_usage=true")
    for (leaf,) in await query(database, LEAVES):
        assert await query(database, f"SELECT count(*) FROM ONLY {leaf} WHERE tenant_id = $1", number) == [(0,)], leaf
    assert await query(database, "SELECT count(*) FROM former_tenant WHERE id = $1", number) == [(0,)]


async def test_another_process_continues_after_a_crash_at_any_step(
    tenant: TenantCaller, operator: HttpCaller, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_removal, "_STEPS", 1)
    await roll_up(database)
    assert (await delete(tenant)).status == 202
    await clock.advance(timedelta(minutes=2))
    steps = 0
    while (await operator.get(f"/tenants/{tenant.tenant}")).status == 200:
        duty = removal(database)  # what an earlier one remembered is lost
        for _ in range(steps % 150):
            await duty.once()
        steps += 7
        assert steps < 10_000
    assert (await rows(database, tenant)).keys() == {"usage_dims", "usage_hour", "usage_day", "usage_month"}


async def test_running_jobs_are_cancelled_and_end_within_a_minute(
    tenant: TenantCaller, operator: HttpCaller, database: Database, clock: Clock
) -> None:
    claim = await operator.call("POST", "/jobs/claim", {"worker_id": "shared", "limit": 100})
    (job, *_) = [job for job in claim.json["jobs"] if job["tenant"] == tenant.tenant]
    acting = {"Penstock-Tenant": tenant.tenant}
    assert (await delete(tenant)).status == 202
    duty = removal(database)
    await run(duty)
    lease = "SELECT cancel_requested_at IS NOT NULL FROM lease l JOIN tenant t ON t.id = l.tenant_id WHERE t.name = $1"
    assert set(await query(database, lease, tenant.tenant)) == {(True,)}
    claimed = await operator.call("POST", "/jobs/claim", {"worker_id": "shared", "limit": 1000})
    assert tenant.tenant not in {one["tenant"] for one in claimed.json["jobs"]}
    await clock.advance(timedelta(minutes=2))
    for _ in range(3):
        await run(duty)
    assert await query(database, lease, tenant.tenant) == []
    late = await operator.call(
        "POST", f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": 1}, headers=acting
    )
    assert late.status in {404, 409}


async def test_a_tenant_that_is_being_deleted_cannot_be_used(tenant: TenantCaller, operator: HttpCaller) -> None:
    assert (await delete(tenant)).status == 202
    await operator.parts.access.watch.once()
    acting = {"Penstock-Tenant": tenant.tenant}
    assert (await operator.call("POST", "/jobs", SUBMISSION, headers=acting)).outcome == (409, "wrong_state")
    assert (await tenant.submit()).status == 401
    resumed = await operator.call("PATCH", f"/tenants/{tenant.tenant}", {"suspended": False})
    assert resumed.outcome == (409, "wrong_state")
    again = await operator.call("POST", "/tenants", {"name": tenant.tenant})
    assert again.outcome == (409, "already_exists")
    shown = await operator.get(f"/tenants/{tenant.tenant}")
    assert "deleting_since" in shown.json
    assert (await operator.call("DELETE", f"/tenants/{tenant.tenant}")).json == shown.json


@pytest.mark.parametrize(
    ("name", "suspended", "outcome"),
    [
        ("default", False, (422, "invalid_input")),
        (None, False, (409, "wrong_state")),
        ("no-such-tenant", False, (404, "not_found")),
    ],
)
async def test_a_deletion_that_is_not_allowed_is_refused(
    operator: HttpCaller, name: str | None, suspended: bool, outcome: Any
) -> None:
    tenant = await new_tenant(operator)
    refused = await operator.call("DELETE", f"/tenants/{name or tenant.tenant}")
    assert refused.outcome == outcome
    assert (await tenant.submit()).status == 201


async def test_only_operators_delete_tenants(tenant: TenantCaller, operator: HttpCaller) -> None:
    refused = await tenant.call("DELETE", f"/tenants/{tenant.tenant}")
    assert refused.outcome == (403, "scope_missing")


async def test_the_deletion_is_in_the_operators_audit_log(
    tenant: TenantCaller, operator: HttpCaller, database: Database, clock: Clock
) -> None:
    await finished(tenant, database, clock)
    log = (await operator.get(f"/audit?subject={tenant.tenant}")).json["actions"]
    assert [one["action"] for one in log] == ["tenant.deleted", "tenant.delete"]
    assert (log[0]["after"], log[1]["after"]) == ({"usage": "kept"}, {"with_usage": False})


async def test_a_large_table_is_emptied_in_bounded_steps(tenant: TenantCaller, database: Database) -> None:
    ((number,),) = await query(database, "SELECT id FROM tenant WHERE name = $1", tenant.tenant)
    await execute(
        database,
        "INSERT INTO event (tenant_id, at, kind, subject) SELECT i % 2 * $1::int, now(), 'x', 'y'"
        " FROM generate_series(1, 200000) i",
        number,
    )
    ((leaf,),) = await query(database, "SELECT tableoid::regclass::text FROM event WHERE kind = 'x' LIMIT 1")
    async with database.acquire() as connection:
        page: int | None = 0
        deleted = 0
        while page is not None:
            row = await connection.fetchrow("SELECT * FROM delete_of_tenant($1, $2, $3)", number, leaf, page)
            assert row is not None
            assert row["next_page"] is None or row["next_page"] == page + 2000
            page, deleted = row["next_page"], deleted + row["deleted"]
        assert deleted > 100_000
        for _ in range(2):  # an index is used where there is one: 1000 rows a step
            row = await connection.fetchrow("SELECT * FROM delete_of_tenant($1, 'submitter', 0)", number)
            assert row is not None
            assert row["deleted"] <= 1000
    await execute(database, "DELETE FROM event WHERE kind = 'x'")
