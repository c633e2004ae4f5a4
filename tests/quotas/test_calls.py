"""Quotas of live calls: calls at once, and calls per minute, at gateways that run models."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.gateways import HttpCaller
from tests.support.quotas import TenantCaller, gateways, new_tenant
from tests.support.waiting import until, within

MODEL = """
    import os, time
    from collections.abc import Iterator

    class Model:
        def predict(self, n: int = 1, wait_for: str = "", fail: bool = False) -> Iterator[int]:
            for number in range(n):
                yield number
            while wait_for and not os.path.exists(wait_for):
                time.sleep(0.002)
            if fail:
                raise RuntimeError("it failed")
"""


@pytest.fixture(scope="module")
async def both(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[HttpCaller]]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "count").mkdir()
    (folder / "count" / "model.py").write_text(textwrap.dedent(MODEL))
    (folder / "count" / "model.toml").write_text('runtime = "python"\n[python]\nclass = "model:Model"\n')
    async with gateways(module_database_url, 2, models_folder=folder) as callers:
        yield callers


@pytest.fixture
async def tenant(both: list[HttpCaller]) -> TenantCaller:
    return await new_tenant(both[0])


async def status(tenant: TenantCaller, **given: object) -> int:
    return (await tenant.call("POST", "/models/count/predict", given)).status


def opened(tenant: TenantCaller, **given: object) -> aiohttp.client._RequestContextManager:
    """Open a stream of a call."""
    return tenant.caller.session.post(
        f"{tenant.caller.address}/api/v1/models/count/stream",
        json=given,
        headers={"Authorization": f"Bearer {tenant.key}"},
    )


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
async def test_a_client_that_leaves_at_any_chunk_frees_its_place(
    tenant: TenantCaller, tmp_path: Path, chunks: int
) -> None:
    await tenant.set_quota("calls_at_once", 1)
    async with opened(tenant, n=3, wait_for=str(tmp_path / "go")) as stream:
        assert stream.status == 200
        seen = 0
        while seen < chunks:
            seen += (await within(stream.content.readline())).startswith(b"event: chunk")
        assert await status(tenant) == 429
        stream.close()
    await until(lambda: not tenant.caller.in_progress, "the request has ended")
    assert await status(tenant) == 200


async def test_a_call_frees_its_place_however_it_ends(tenant: TenantCaller) -> None:
    await tenant.set_quota("calls_at_once", 1)
    assert await status(tenant, fail=True) == 500
    assert await status(tenant, n="many") == 422
    assert await status(tenant) == 200
    async with opened(tenant, n=2) as stream:
        await stream.read()
    async with opened(tenant, fail=True) as stream:
        await stream.read()
    assert await status(tenant) == 200


async def test_calls_at_once_are_limited_across_gateways(
    tenant: TenantCaller, both: list[HttpCaller], tmp_path: Path
) -> None:
    there = tenant.at(both[1])
    await tenant.set_quota("calls_at_once", 2)
    await there.know()
    go = tmp_path / "go"
    async with opened(tenant, n=1, wait_for=str(go)) as first, opened(there, n=1, wait_for=str(go)) as second:
        assert (first.status, second.status) == (200, 200)
        refused = await tenant.call("POST", "/models/count/predict", {})
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json["detail"] == "the quota calls-at-once allows 2, of which 2 are used"
        assert await status(there) == 429
        go.touch()
        await first.read()
        await second.read()
    await tenant.step()
    await there.step()
    assert [await status(tenant), await status(there)] == [200, 200]


async def test_calls_per_minute_count_calls_that_began(tenant: TenantCaller, tmp_path: Path) -> None:
    await tenant.set_quota("calls", 3, "minute")
    assert await status(tenant, n="many") == 422  # not a call
    assert await status(tenant, fail=True) == 500
    async with opened(tenant, n=1, wait_for=str(tmp_path / "go")) as stream:
        await within(stream.content.readline())
        stream.close()  # it began
    reply = await tenant.call("POST", "/models/count/predict", {})
    assert (reply.status, reply.headers["RateLimit-Policy"]) == (200, '"calls-per-minute";q=3;w=60')
    assert reply.headers["RateLimit"].startswith('"calls-per-minute";r=0;')
    assert await status(tenant) == 429


async def test_errors_state_the_use_of_quotas(tenant: TenantCaller) -> None:
    await tenant.set_quota("calls_at_once", 5)
    reply = await tenant.call("POST", "/models/count/predict", {"fail": True})
    assert reply.status == 500
    assert reply.headers["RateLimit-Policy"] == '"calls-at-once";q=5;qu="concurrent-requests"'


async def test_a_call_refused_by_the_rate_takes_no_place(tenant: TenantCaller) -> None:
    await tenant.set_quota("calls_at_once", 1)
    await tenant.set_quota("calls", 0, "minute")
    assert [await status(tenant) for _ in range(3)] == [429, 429, 429]
    await tenant.step()
    assert (await tenant.quotas())["calls_at_once"]["reserved"] == 0


async def test_the_interface_of_the_document_is_limited_too(tenant: TenantCaller) -> None:
    await tenant.set_quota("calls", 1, "minute")
    first = await tenant.call("POST", "/post/predict?id=count", {"fail": True})
    assert (first.status, list(first.json)) == (500, ["error"])
    assert "RateLimit" in first.headers
    refused = await tenant.call("POST", "/post/predict?id=count", {})
    assert refused.outcome == (429, "quota_exceeded")


async def test_many_calls_at_once_never_exceed_the_quota(tenant: TenantCaller, both: list[HttpCaller]) -> None:
    await tenant.set_quota("calls_at_once", 3)
    there = tenant.at(both[1])
    await there.know()
    statuses = await asyncio.gather(*(status(tenant if i % 2 else there) for i in range(60)))
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 3
    await tenant.step()
    await there.step()
    assert (await tenant.quotas())["calls_at_once"]["reserved"] == 0


async def test_why_names_the_quota_that_a_backing_off_job_waits_for(both: list[HttpCaller]) -> None:
    """A tenant's own worker makes live calls. When one is refused, its job waits for another attempt."""
    tenant = await new_tenant(both[0])
    await tenant.set_quota("calls", 0, "day")
    await tenant.set_quota("calls", 5, "hour")
    reply = await tenant.submit(task_type="predict", model_profile="some-model", input={})
    assert reply.status == 201, reply.body
    waiting = f"/jobs/{reply.json['id']}/why"
    codes = [reason["code"] for reason in (await tenant.call("GET", waiting)).json["reasons"]]
    assert "quota" not in codes
    (job,) = (await tenant.call("POST", "/jobs/claim", {"worker_id": "w", "limit": 1})).json["jobs"]
    failure = {"epoch": job["epoch"], "category": "rate_limited", "message": "m", "retry_after_seconds": 600}
    assert (await tenant.call("POST", f"/jobs/{job['id']}/fail", failure)).status == 200
    reasons = {reason["code"]: reason for reason in (await tenant.call("GET", waiting)).json["reasons"]}
    assert reasons.keys() >= {"backing_off", "quota"}
    assert "calls-per-day of 0" in reasons["quota"]["detail"]
    assert "until" in reasons["quota"]
