"""Quotas over HTTP: who may read and set them, and what they show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.gateways import HttpCaller
from tests.support.quotas import TenantCaller, gateways, new_tenant
from tests.support.waiting import within


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with gateways(module_database_url, 1) as (caller,):
        yield caller


@pytest.fixture
async def tenant(operator: HttpCaller) -> TenantCaller:
    return await new_tenant(operator)


async def test_a_tenant_reads_its_quotas_and_cannot_set_them(tenant: TenantCaller) -> None:
    await tenant.set_quota("jobs", 5, "day")
    quota = (await tenant.quotas())["jobs"]
    assert (quota["limit"], quota["used"], quota["reserved"], quota["per"]) == (5, 0, 0, "day")
    assert "resets_at" in quota
    refused = await tenant.call("PUT", "/quotas", {"measure": "jobs", "per": "day", "limit": 6})
    assert refused.outcome == (403, "scope_missing")
    assert (await tenant.call("DELETE", f"/quotas/{quota['id']}")).outcome == (403, "scope_missing")


async def test_a_tenant_sees_no_quota_of_another(tenant: TenantCaller, operator: HttpCaller) -> None:
    other = await new_tenant(operator)
    quota = await other.set_quota("jobs", 5, "day")
    assert await tenant.quotas() == {}
    reply = await operator.call("DELETE", f"/quotas/{quota['id']}", headers={"Penstock-Tenant": tenant.tenant})
    assert reply.outcome == (404, "not_found")
    assert "jobs" in await other.quotas()


async def test_setting_a_quota_again_changes_its_limit_and_keeps_what_was_counted(tenant: TenantCaller) -> None:
    first = await tenant.set_quota("jobs", 1, "day")
    assert (await tenant.submit()).status == 201
    assert (await tenant.submit()).status == 429
    second = await tenant.set_quota("jobs", 2, "day")
    assert first["id"] == second["id"]
    assert (await tenant.submit()).status == 201
    assert (await tenant.submit()).status == 429
    await tenant.step()
    assert (await tenant.quotas())["jobs"]["used"] == 2


async def test_a_removed_quota_limits_nothing(tenant: TenantCaller, operator: HttpCaller) -> None:
    quota = await tenant.set_quota("jobs", 0, "day")
    assert (await tenant.submit()).status == 429
    path = f"/quotas/{quota['id']}"
    assert (await operator.call("DELETE", path, headers={"Penstock-Tenant": tenant.tenant})).status == 204
    assert (await tenant.submit()).status == 201  # also before this gateway has read that it was removed
    await tenant.know()
    assert (await tenant.submit()).status == 201
    again = await operator.call("DELETE", path, headers={"Penstock-Tenant": tenant.tenant})
    assert again.outcome == (404, "not_found")


async def test_quotas_may_be_removed_while_requests_are_admitted(tenant: TenantCaller, operator: HttpCaller) -> None:
    for turn in range(8):
        quota = await tenant.set_quota("jobs", 1000, "day", user="*")
        removing = operator.call("DELETE", f"/quotas/{quota['id']}", headers={"Penstock-Tenant": tenant.tenant})
        replies = await asyncio.gather(removing, *(tenant.submit(user_id=f"u{turn}-{number}") for number in range(24)))
        assert [reply.status for reply in replies] == [204] + [201] * 24


async def test_every_change_is_in_the_audit_log(tenant: TenantCaller, operator: HttpCaller) -> None:
    quota = await tenant.set_quota("jobs", 5, "day")
    await tenant.set_quota("jobs", 7, "day")
    await operator.call("DELETE", f"/quotas/{quota['id']}", headers={"Penstock-Tenant": tenant.tenant})
    log = (await tenant.call("GET", f"/audit?subject={quota['id']}")).json["actions"]
    assert [one["action"] for one in log] == ["quota.remove", "quota.set", "quota.set"]
    assert (log[1]["before"], log[1]["after"]) == ({"limit": 5}, {"limit": 7})


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"measure": "jobs", "limit": 5}, "per"),
        ({"measure": "calls_at_once", "limit": 5, "per": "day"}, "per"),
        ({"measure": "jobs", "limit": 5, "per": "day", "key": "3Kf0aQ9ZpL2m"}, "key"),
        ({"measure": "jobs", "limit": 5, "per": "day", "key": "3Kf0aQ9ZpL2m", "user": "ada"}, "user"),
        ({"measure": "pending_jobs", "limit": 10001, "user": "ada"}, "limit"),
        ({"measure": "stored_bytes", "limit": 5, "user": "ada"}, "measure"),
        ({"measure": "stored_items", "limit": 5, "user": "ada"}, "measure"),
        ({"measure": "stored_bytes", "limit": 5, "per": "day"}, "per"),
        ({"measure": "calls", "limit": 5, "per": "minute", "on_crash": "charge"}, "on_crash"),
        ({"measure": "jobs", "limit": -1, "per": "day"}, "limit"),
        ({"measure": "jobs", "limit": 10**16, "per": "day"}, "limit"),
        ({"measure": "beer", "limit": 1, "per": "day"}, "measure"),
        ({"measure": "jobs", "limit": 1, "per": "year"}, "per"),
        ({"measure": "jobs", "limit": 1, "per": "day", "user": "a\x00b"}, "user"),
    ],
)
async def test_a_setting_that_makes_no_sense_is_refused_and_names_the_field(
    tenant: TenantCaller, operator: HttpCaller, setting: dict[str, Any], field: str
) -> None:
    reply = await operator.call("PUT", "/quotas", setting, headers={"Penstock-Tenant": tenant.tenant})
    assert reply.outcome == (422, "invalid_input")
    assert reply.fields == [field]
    assert await tenant.quotas() == {}


async def test_quotas_of_a_key_a_user_and_every_user_count_for_them_alone(tenant: TenantCaller) -> None:
    await tenant.set_quota("jobs", 2, "hour", user="*")
    await tenant.set_quota("jobs", 1, "day", user="eve")
    await tenant.set_quota("jobs", 4, "month", key=tenant.key_id)
    assert [(await tenant.submit(user_id="ada")).status for _ in range(3)] == [201, 201, 429]
    assert [(await tenant.submit(user_id="eve")).status for _ in range(2)] == [201, 429]
    assert (await tenant.submit()).status == 201  # without a user
    assert (await tenant.submit()).json["quota"] == "jobs-per-month"
    await tenant.step()
    found = (await tenant.call("GET", "/quotas?user=ada")).json["quotas"]
    assert {(quota.get("user"), quota.get("key")): quota["used"] for quota in found} == {
        ("*", None): 2,
        ("eve", None): 1,
        (None, tenant.key_id): 4,
    }


async def test_the_watch_of_keys_wakes_that_of_quotas_when_a_wake_up_was_lost(operator: HttpCaller) -> None:
    keys, seen = operator.parts.access.watch, asyncio.Event()
    assert operator.parts.quotas.watch.wake in keys.on_change
    keys.on_change.append(seen.set)
    async with operator.parts.database.acquire() as connection:
        await connection.execute("UPDATE access_generation SET generation = generation + 1")
    await keys.once()
    await within(seen.wait())
