"""Quotas and flows: reruns are admitted, retries and what runs issue are counted, and neither is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.postgres.pool import Database
from tests.support.flow_runners import running
from tests.support.gateways import HttpCaller
from tests.support.jobs import job_service
from tests.support.quotas import TenantCaller, gateways, new_tenant
from tests.support.waiting import until

FLOWS = """
from penstock.flows import flow, run

@flow(name="echoes", version="1")
async def echoes(times: int, model: str = "echo") -> list:
    return await run.gather(*[run.call(model, number) for number in range(times)])

@flow(name="fails", version="1")
async def fails() -> None:
    await run.call("echo", {"fail": True})
"""


@pytest.fixture(scope="module")
async def four(module_database_url: str) -> AsyncIterator[list[HttpCaller]]:
    async with gateways(module_database_url, 4) as callers:
        yield callers


@pytest.fixture
async def everywhere(four: list[HttpCaller]) -> list[TenantCaller]:
    """One tenant at each of the gateways."""
    tenant = await new_tenant(four[0])
    return [tenant.at(caller) for caller in four]


@asynccontextmanager
async def runner(database: Database, folder: Path, tenant: TenantCaller) -> AsyncIterator[None]:
    (folder / "flows.py").write_text(FLOWS)

    async def published() -> bool:
        return any(flow["alive"] for flow in (await tenant.call("GET", "/flows")).json["flows"])

    async with job_service(database) as service, running(service, database, folder, linger=0.1):
        await until(published, "the flows are published")
        yield


async def start(tenant: TenantCaller, flow: str, **fields: Any) -> dict[str, Any]:
    reply = await tenant.call("POST", f"/flows/{flow}", fields, Prefer="wait=30")
    assert reply.status == 201, reply.body
    job: dict[str, Any] = reply.json
    return job


async def limit(everywhere: list[TenantCaller], measure: str, most: int, **fields: Any) -> None:
    await everywhere[0].set_quota(measure, most, **fields)
    for tenant in everywhere:
        await tenant.know()


async def test_reruns_are_admitted_like_submits_at_all_gateways(
    everywhere: list[TenantCaller], database: Database, tmp_path: Path
) -> None:
    tenant = everywhere[0]
    async with runner(database, tmp_path, tenant):
        run = await start(tenant, "echoes", input={"times": 1})
        await limit(everywhere, "jobs", 7, per="day")
        path = f"/flows/runs/{run['id']}/rerun"
        assert (await tenant.call("POST", path, {"step": 99})).status == 422  # which costs nothing
        replies = await asyncio.gather(*(everywhere[i % 4].call("POST", path, {"step": 0}) for i in range(30)))
        for one in everywhere:
            await one.step(idle=True)
        replies += [await everywhere[i % 4].call("POST", path, {"step": 0}) for i in range(5)]
    statuses = Counter(reply.status for reply in replies)
    assert (statuses[201], set(statuses)) == (7, {201, 429})
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.json["quota"] == "jobs-per-day"
    assert "ratelimit" in next(reply for reply in replies if reply.status == 201).headers


async def test_a_rerun_counts_among_the_pending_jobs_of_its_user(
    everywhere: list[TenantCaller], database: Database, tmp_path: Path
) -> None:
    tenant = everywhere[0]
    async with runner(database, tmp_path, tenant):
        run = await start(tenant, "echoes", input={"times": 1}, user_id="ada")
    await limit(everywhere, "pending_jobs", 2, user="*")
    replies = [await tenant.call("POST", f"/flows/runs/{run['id']}/rerun", {"step": 0}) for _ in range(3)]
    assert [reply.status for reply in replies] == [201, 201, 429]
    assert (await tenant.quotas("ada"))["pending_jobs"]["used"] == 2
    assert (await tenant.submit(user_id="ada")).status == 429


async def test_a_retry_of_a_run_is_counted_and_never_refused(
    everywhere: list[TenantCaller], database: Database, tmp_path: Path
) -> None:
    tenant = everywhere[0]
    async with runner(database, tmp_path, tenant):
        run = await start(tenant, "fails", input={}, user_id="ada")
        assert run["status"] == "failed"
    await limit(everywhere, "pending_jobs", 1, user="*")
    assert (await tenant.submit(user_id="ada")).status == 201
    assert (await tenant.call("POST", f"/flows/runs/{run['id']}/retry")).status == 200
    assert (await tenant.quotas("ada"))["pending_jobs"]["used"] == 2


async def test_what_a_run_issues_is_not_refused(
    everywhere: list[TenantCaller], database: Database, tmp_path: Path
) -> None:
    tenant = everywhere[0]
    async with runner(database, tmp_path, tenant):
        await limit(everywhere, "jobs", 1, per="minute")
        run = await start(tenant, "echoes", input={"times": 20})
        assert run["status"] == "completed"
        refused = await tenant.call("POST", "/flows/echoes", {"input": {"times": 1}})
        assert (refused.status, refused.json["quota"]) == (429, "jobs-per-minute")


async def test_what_a_run_issues_counts_among_the_pending_jobs_of_the_tenant(
    everywhere: list[TenantCaller], database: Database, tmp_path: Path
) -> None:
    tenant = everywhere[0]
    await limit(everywhere, "pending_jobs", 3)
    async with runner(database, tmp_path, tenant):
        reply = await tenant.call("POST", "/flows/echoes", {"input": {"times": 5, "model": "served-by-none"}})
        assert reply.status == 201

        async def issued() -> bool:
            return bool((await tenant.quotas())["pending_jobs"]["used"] == 5)

        await until(issued, "the jobs of the run are pending")
    for one in everywhere:
        await one.step(idle=True)
    assert (await tenant.submit()).status == 429
