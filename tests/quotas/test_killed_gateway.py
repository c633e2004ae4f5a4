"""A gateway that is killed while it admits requests: what it held is freed or charged, and no quota is exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from penstock.supervisor.ports import free_port
from tests.support.clocks import Clock
from tests.support.databases import open_database, query
from tests.support.gateways import INSTANCE_SECRET, SUBMISSION, HttpCaller
from tests.support.processes import clean_environment, penstock
from tests.support.quotas import TOKEN, gateways, new_tenant
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def caller(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with gateways(module_database_url, 1) as (caller,):
        yield caller


@pytest.mark.parametrize("on_crash", ["free", "charge"])
async def test_jobs_of_a_day_with_a_gateway_killed_half_way(
    caller: HttpCaller, module_database_url: str, tmp_path: Path, on_crash: str
) -> None:
    tenant = await new_tenant(caller)
    await tenant.set_quota("jobs", 200, "day", on_crash=on_crash)
    port = str(free_port())
    environment = clean_environment(
        DATABASE_URL=module_database_url,
        HTTP_PORT=port,
        AI_SERVICE_TOKEN=TOKEN,
        PENSTOCK_SECRET_KEY=INSTANCE_SECRET.reveal(),
        PENSTOCK_LOG_LEVEL="error",
    )
    accepted = 0
    async with (
        open_database(module_database_url) as database,
        penstock("gateway", environment=environment, folder=tmp_path) as process,
    ):
        other = f"http://127.0.0.1:{port}"

        async def responds() -> bool:
            try:
                async with caller.session.get(other + "/healthz") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await until(responds, "the other gateway responds")

        async def submit_there() -> int:
            """Submit one job after the other until the gateway is killed, or the quota refuses; return how many."""
            count = 0
            headers = {"Authorization": f"Bearer {tenant.key}"}
            try:
                while True:
                    async with caller.session.post(other + "/api/v1/jobs", json=SUBMISSION, headers=headers) as reply:
                        if reply.status != 201:
                            return count
                        count += 1
                        if count == 10:
                            enough.set()
            except aiohttp.ClientError:
                return count

        enough = asyncio.Event()
        submitting = [asyncio.create_task(submit_there()) for _ in range(4)]
        await asyncio.wait_for(enough.wait(), 30)
        process.kill()
        accepted += sum(await asyncio.gather(*submitting))
        clock = Clock(database)
        await clock.advance(timedelta(seconds=31))
        ((held,),) = await query(
            database, "SELECT held FROM quota_use JOIN tenant t ON t.id = tenant_id WHERE t.name = $1", tenant.tenant
        )
        while (await tenant.submit()).status == 201:
            accepted += 1
        await clock.reset()
        await tenant.step()
        quota = (await tenant.quotas())["jobs"]
        ((created,),) = await query(
            database, "SELECT count(*) FROM job JOIN tenant t ON t.id = tenant_id WHERE t.name = $1", tenant.tenant
        )
    assert created - accepted <= 4  # those whose response was lost
    if on_crash == "charge":
        assert created <= 200
        assert created + held >= 200
        assert quota.get("unaccounted", 0) == held
    else:
        assert 200 <= created <= 200 + held
        assert "unaccounted" not in quota
    assert quota["used"] == 200
