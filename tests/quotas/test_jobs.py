"""Quotas of jobs: exact with several gateways, and counted only for jobs that were created."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.support.clocks import Clock
from tests.support.databases import open_database
from tests.support.gateways import SUBMISSION, HttpCaller
from tests.support.quotas import TenantCaller, gateways, new_tenant


@pytest.fixture(scope="module")
async def four(module_database_url: str) -> AsyncIterator[list[HttpCaller]]:
    async with gateways(module_database_url, 4) as callers:
        yield callers


@pytest.fixture
async def clock(module_database_url: str) -> AsyncIterator[Clock]:
    async with open_database(module_database_url) as database:
        clock = Clock(database)
        yield clock
        await clock.reset()


@pytest.fixture
async def everywhere(four: list[HttpCaller]) -> list[TenantCaller]:
    """One tenant at each of the gateways."""
    tenant = await new_tenant(four[0])
    return [tenant.at(caller) for caller in four]


async def limit(everywhere: list[TenantCaller], measure: str, most: int, per: str | None = None, **fields: str) -> None:
    await everywhere[0].set_quota(measure, most, per, **fields)
    for tenant in everywhere:
        await tenant.know()


@pytest.mark.parametrize("per", ["minute", "day"])
async def test_2000_submits_at_4_gateways_with_a_quota_of_100_create_exactly_100(
    everywhere: list[TenantCaller], per: str, clock: Clock
) -> None:
    await clock.freeze(noon=True)  # a minute may pass on a busy machine
    await limit(everywhere, "jobs", 100, per)
    turns = asyncio.Semaphore(100)

    async def submit(tenant: TenantCaller) -> int:
        async with turns:
            return (await tenant.submit()).status

    outcomes = Counter(await asyncio.gather(*(submit(everywhere[i % 4]) for i in range(2000))))
    # Shares of idle gateways cannot be used by others; once these are given back, the whole quota is used.
    for tenant in everywhere:
        await tenant.step(idle=True)
    outcomes += Counter([(await everywhere[i % 4].submit()).status for i in range(100)])
    assert outcomes[201] == 100
    assert set(outcomes) == {201, 429}
    for tenant in everywhere:
        await tenant.step()
    assert (await everywhere[0].quotas())["jobs"]["used"] == 100


async def test_pending_jobs_are_limited_however_many_gateways_accept_them(everywhere: list[TenantCaller]) -> None:
    await limit(everywhere, "pending_jobs", 10)
    outcomes = await asyncio.gather(*(everywhere[i % 4].submit() for i in range(80)))
    statuses = [reply.status for reply in outcomes]
    statuses += [(await everywhere[i % 4].submit()).status for i in range(10)]
    assert Counter(statuses)[201] == 10
    tenant = everywhere[0]
    claimed = await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 3})
    assert len(claimed.json["jobs"]) == 3
    statuses = []
    for tenant in everywhere:
        statuses.append((await tenant.submit()).status)
        await tenant.step()
    assert statuses == [201, 201, 201, 429]


async def test_a_request_that_one_quota_refuses_consumes_none_of_the_others(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, "jobs", 100, "day")
    await limit(everywhere, "jobs", 50, "hour", user="*")
    await limit(everywhere, "pending_jobs", 0)
    for _ in range(5):
        reply = await tenant.submit(user_id="ada")
        assert (reply.status, reply.json["quota"]) == (429, "pending-jobs")
    await tenant.step()
    found = (await tenant.call("GET", "/quotas?user=ada")).json["quotas"]
    assert [quota["used"] for quota in found] == [0, 0, 0]


async def test_a_batch_is_admitted_whole_or_not_at_all(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, "jobs", 5, "day")
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION] * 3})).status == 201
    refused = await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION] * 3})
    assert (refused.status, refused.json["used"]) == (429, 3)
    assert (await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION] * 2})).status == 201
    too_many = await tenant.call("POST", "/jobs/batch", {"jobs": [SUBMISSION] * 6})
    assert too_many.status == 429
    assert "Retry-After" not in too_many.headers  # waiting does not help


async def test_only_jobs_that_were_created_are_counted(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, "jobs", 3, "day")
    statuses = [(await tenant.submit(idempotency_key="k")).status for _ in range(5)]
    assert statuses == [201, 200, 200, 200, 200]
    assert (await tenant.submit(idempotency_key="k", input={"other": 1})).status == 422
    assert (await tenant.submit(priority=1000)).status == 422
    assert [(await tenant.submit()).status for _ in range(3)] == [201, 201, 429]


async def test_responses_state_limits_and_use_of_quotas(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    await limit(everywhere, "jobs", 2, "minute")
    accepted = await tenant.submit()
    assert accepted.headers["RateLimit-Policy"] == '"jobs-per-minute";q=2;qu="jobs";w=60'
    assert accepted.headers["RateLimit"].startswith('"jobs-per-minute";r=1;t=')
    await tenant.submit()
    refused = await tenant.submit()
    problem = refused.json
    assert refused.status == 429
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (problem["code"], problem["quota"]) == ("quota_exceeded", "jobs-per-minute")
    assert (problem["limit"], problem["used"], problem["violated-policies"]) == (2, 2, ["jobs-per-minute"])
    assert "resets_at" in problem
    assert 50 <= int(refused.headers["Retry-After"]) <= 61
    assert refused.headers["RateLimit"].startswith('"jobs-per-minute";r=0;t=')


async def test_a_tenant_without_quotas_gets_no_headers_and_no_slices(four: list[HttpCaller]) -> None:
    tenant = await new_tenant(four[0])
    reply = await tenant.submit()
    assert reply.status == 201
    assert "RateLimit" not in reply.headers
