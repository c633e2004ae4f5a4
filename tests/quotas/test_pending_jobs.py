"""Quotas of the pending jobs of a key, a user, and every user: exact with several gateways."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from penstock.postgres.pool import Database
from penstock.quotas.duties import QuotaExpiry
from tests.support.clocks import Clock
from tests.support.databases import query
from tests.support.gateways import SUBMISSION, HttpCaller
from tests.support.quotas import TenantCaller, gateways, new_tenant


@pytest.fixture(scope="module")
async def four(module_database_url: str) -> AsyncIterator[list[HttpCaller]]:
    async with gateways(module_database_url, 4) as callers:
        yield callers


@pytest.fixture
async def everywhere(four: list[HttpCaller]) -> list[TenantCaller]:
    """One tenant at each of the gateways."""
    tenant = await new_tenant(four[0])
    return [tenant.at(caller) for caller in four]


async def limit(everywhere: list[TenantCaller], most: int, **fields: str) -> None:
    await everywhere[0].set_quota("pending_jobs", most, **fields)
    for tenant in everywhere:
        await tenant.know()


async def pending(tenant: TenantCaller, user: str = "") -> int:
    """Return how many jobs the quota counts as pending."""
    used: int = (await tenant.quotas(user))["pending_jobs"]["used"]
    return used


async def claim(tenant: TenantCaller, number: int = 1) -> list[dict[str, Any]]:
    reply = await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": number})
    jobs: list[dict[str, Any]] = reply.json["jobs"]
    assert len(jobs) == number
    return jobs


async def finish(tenant: TenantCaller, job: dict[str, Any], outcome: str, **fields: Any) -> None:
    reply = await tenant.call("POST", f"/jobs/{job['id']}/{outcome}", {"epoch": job["epoch"], **fields})
    assert reply.status == 200, reply.body


async def outcomes(everywhere: list[TenantCaller], number: int, **fields: Any) -> Counter[int]:
    """Submit jobs at all gateways at once, and again when idle ones have given back their shares; count statuses."""
    replies = await asyncio.gather(*(everywhere[i % 4].submit(**fields) for i in range(number)))
    for tenant in everywhere:
        await tenant.step(idle=True)
    replies += [await everywhere[i % 4].submit(**fields) for i in range(5)]
    return Counter(reply.status for reply in replies)


async def test_every_user_has_exactly_as_many_pending_jobs_as_allowed(everywhere: list[TenantCaller]) -> None:
    await limit(everywhere, 7, user="*")
    ada, eve = await asyncio.gather(
        outcomes(everywhere, 60, user_id="ada"),
        outcomes(everywhere, 60, user_id="eve", run_at="2100-01-01T00:00:00Z"),
    )
    assert (ada[201], eve[201], set(ada) | set(eve)) == (7, 7, {201, 429})
    assert (await everywhere[0].submit()).status == 201  # without a user
    assert await pending(everywhere[0], "ada") == 7
    assert await pending(everywhere[0], "eve") == 7


async def test_a_key_has_exactly_as_many_pending_jobs_as_allowed(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 30, key=tenant.key_id)
    assert (await outcomes(everywhere, 100))[201] == 30
    await claim(tenant, 4)
    assert (await outcomes(everywhere, 20))[201] == 4
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION] * 2})).status == 429


async def test_a_job_counts_while_it_is_pending(everywhere: list[TenantCaller], clock: Clock) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 2, user="ada")
    for _ in range(2):
        assert (await tenant.submit(user_id="ada", max_attempts=2)).status == 201
    assert await pending(tenant) == 2
    job, _ = await claim(tenant, 2)
    assert await pending(tenant) == 0
    assert (await tenant.submit(user_id="ada")).status == 201
    await tenant.step()
    await finish(tenant, job, "fail", category="worker_lost", message="m")  # it is pending again
    assert await pending(tenant) == 2
    assert (await tenant.submit(user_id="ada")).json["quota"] == "pending-jobs"
    await clock.advance(timedelta(days=1))
    cancelled = await tenant.call("POST", f"/jobs/{job['id']}/cancel")
    assert cancelled.status == 200, cancelled.body
    assert await pending(tenant) == 1
    await tenant.step()
    assert (await tenant.submit(user_id="ada")).status == 201


async def test_a_job_that_was_retried_by_hand_counts_again(everywhere: list[TenantCaller], database: Database) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 1, user="*")
    await tenant.submit(user_id="ada")
    (job,) = await claim(tenant)
    await finish(tenant, job, "fail", category="bad_input", message="m")
    await tenant.step()
    assert (await tenant.submit(user_id="ada")).status == 201  # which removes the finished job from those counted
    (other,) = await claim(tenant)
    await tenant.step()
    assert (await tenant.call("POST", f"/jobs/{job['id']}/retry")).status == 200  # never refused
    assert (await tenant.call("POST", f"/jobs/{other['id']}/retry")).status == 200  # while it runs
    assert await pending(tenant, "ada") == 2
    assert (await tenant.submit(user_id="ada")).status == 429
    await claim(tenant, 2)
    assert (await tenant.submit(user_id="ada")).status == 201


async def test_finished_jobs_are_forgotten(everywhere: list[TenantCaller], database: Database) -> None:
    tenant = everywhere[0]
    await limit(everywhere, 10, user="*")
    for number in range(5):
        await tenant.submit(user_id=f"u{number}")
    first, second, *_ = await claim(tenant, 4)
    for job in (first, second):
        await finish(tenant, job, "complete", result=1)
    await QuotaExpiry(database).once()
    left = "SELECT count(*) FROM quota_job c JOIN tenant t ON t.id = c.tenant_id WHERE t.name = $1"
    assert await query(database, left, tenant.tenant) == [(3,)]
    quota = (await tenant.quotas())["pending_jobs"]
    operator = tenant.caller
    removed = await operator.call("DELETE", f"/quotas/{quota['id']}", headers={"Penstock-Tenant": tenant.tenant})
    assert removed.status == 204
    assert await query(database, left, tenant.tenant) == [(0,)]


async def test_a_refusal_for_pending_jobs_consumes_no_other_quota(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await tenant.set_quota("jobs", 100, "day")
    await limit(everywhere, 1, user="*")
    assert (await tenant.submit(user_id="ada")).status == 201
    for _ in range(3):
        assert (await tenant.submit(user_id="ada")).json["quota"] == "pending-jobs"
    batch = [SUBMISSION | {"user_id": user} for user in ("bob", "bob")]
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": batch})).status == 429
    await tenant.step()
    assert (await tenant.quotas())["jobs"]["used"] == 1
