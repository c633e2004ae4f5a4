"""Quotas of stored bytes: exact with several gateways, and free again after a deletion or expiry."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from penstock.blobs import store
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.gateways import HttpCaller, Reply
from tests.support.quotas import TenantCaller, gateways, new_tenant

MOST = 1_000_000


@pytest.fixture(scope="module")
async def four(module_database_url: str) -> AsyncIterator[list[HttpCaller]]:
    async with gateways(module_database_url, 4, penstock_max_blob_bytes=MOST) as callers:
        yield callers


@pytest.fixture
async def everywhere(four: list[HttpCaller]) -> list[TenantCaller]:
    """One tenant at each of the gateways, with a quota of 1,000 bytes."""
    tenant = await new_tenant(four[0])
    everywhere = [tenant.at(caller) for caller in four]
    await tenant.set_quota("stored_bytes", 1000)
    for one in everywhere:
        await one.know()
    return everywhere


async def put(tenant: TenantCaller, size: int, *, body: bytes | None = None) -> Reply:
    reply = await tenant.caller.call(
        "POST", "/blobs", body=b"x" * size if body is None else body, headers={"Authorization": f"Bearer {tenant.key}"}
    )
    if reply.status == 429:
        assert reply.json["quota"] == "stored-bytes"
    return reply


async def stored(tenant: TenantCaller) -> int:
    used: int = (await tenant.quotas())["stored_bytes"]["used"]
    return used


async def test_uploads_at_4_gateways_store_exactly_the_quota(everywhere: list[TenantCaller]) -> None:
    replies = await asyncio.gather(*(put(everywhere[i % 4], 10) for i in range(150)))
    for tenant in everywhere:
        await tenant.step(idle=True)
    replies += await asyncio.gather(*(put(everywhere[i % 4], 10) for i in range(100)))
    assert Counter(reply.status for reply in replies)[201] == 100
    assert await stored(everywhere[0]) == 1000


async def test_a_file_is_refused_as_a_whole_and_leaves_its_space_to_smaller_ones(
    everywhere: list[TenantCaller],
) -> None:
    tenant = everywhere[0]
    assert (await put(tenant, 600)).status == 201
    refused = await put(tenant, 401)
    assert (refused.outcome, refused.json["limit"], refused.json["used"]) == ((429, "quota_exceeded"), 1000, 600)
    assert (await put(tenant, 400)).status == 201
    larger_than_the_quota = await put(tenant, 1001)
    assert larger_than_the_quota.status == 429
    assert "Retry-After" not in larger_than_the_quota.headers


async def test_deletion_and_expiry_free_the_space(
    everywhere: list[TenantCaller], database: Database, clock: Clock
) -> None:
    tenant, other = everywhere[:2]
    blob = (await put(tenant, 1000)).json
    await tenant.step()
    assert (await put(other, 1)).status == 429
    assert (await tenant.call("DELETE", f"/blobs/{blob['id']}")).status == 204
    assert (await put(other, 999)).status == 201
    await other.step()
    await clock.advance(timedelta(days=400))
    async with database.acquire() as connection:
        await store.expire(connection, limit=1000)
    assert (await put(tenant, 1000)).status == 201


async def test_an_upload_that_fails_frees_its_space(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    assert (await put(tenant, 0, body=b"")).status == 422
    reply = await tenant.caller.call(
        "POST",
        "/blobs",
        body=b"x" * 900,
        headers={"Authorization": f"Bearer {tenant.key}", "Content-Type": "no media type"},
    )
    assert reply.status == 422
    assert (await put(tenant, 1000)).status == 201


async def test_a_form_counts_its_file_only(everywhere: list[TenantCaller]) -> None:
    tenant = everywhere[0]
    form = aiohttp.FormData()
    form.add_field("file", b"x" * 300, filename="a.wav", content_type="audio/wav")
    async with tenant.caller.session.post(
        f"{tenant.caller.address}/api/v1/blobs", data=form, headers={"Authorization": f"Bearer {tenant.key}"}
    ) as response:
        assert response.status == 201
    assert await stored(tenant) == 300
    assert (await put(tenant, 700)).status == 201


async def test_an_upload_of_unknown_size_is_refused_under_the_quota(
    everywhere: list[TenantCaller], four: list[HttpCaller]
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 10

    async def send(tenant: TenantCaller) -> int:
        async with tenant.caller.session.post(
            f"{tenant.caller.address}/api/v1/blobs",
            data=chunks(),
            headers={"Authorization": f"Bearer {tenant.key}", "Content-Type": "audio/wav"},
        ) as response:
            if response.status == 422:
                assert b"Content-Length" in await response.read()
            return response.status

    assert await send(everywhere[0]) == 422
    assert await send(await new_tenant(four[0])) == 201
    assert (await put(everywhere[0], 1000)).status == 201


async def test_parts_of_unfinished_uploads_count(everywhere: list[TenantCaller]) -> None:
    tenant, other = everywhere[:2]
    bearer = {"Authorization": f"Bearer {tenant.key}"}
    begun = await tenant.call("POST", "/uploads", {"media_type": "audio/wav"})
    assert begun.status == 201, begun.body
    path = f"/uploads/{begun.json['id']}"
    for number, size in ((1, 500), (2, 300), (1, 200)):  # the last one replaces the first
        part = await tenant.caller.call("PUT", f"{path}/parts/{number}", body=b"x" * size, headers=bearer)
        assert part.status == 200, part.body
        await tenant.step()
    assert await stored(tenant) == 500
    assert (await put(other, 501)).status == 429
    await other.step(idle=True)  # it gives back what it was granted for the refused file
    refused = await tenant.caller.call("PUT", f"{path}/parts/3", body=b"x" * 501, headers=bearer)
    assert (refused.status, refused.json["quota"]) == (429, "stored-bytes")
    assert (await tenant.caller.call("PUT", f"{path}/parts/3", body=b"x" * 500, headers=bearer)).status == 200
    completed = await tenant.call("POST", f"{path}/complete", {})
    assert (completed.status, completed.json["size_bytes"]) == (201, 1000)
    await tenant.step(idle=True)
    assert await stored(tenant) == 1000
    assert (await put(other, 1)).status == 429
