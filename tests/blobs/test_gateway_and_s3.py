"""A gateway whose files are at S3: uploads, ranges, presigned URLs, and what it does when S3 fails, is slow or gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from tests.support.databases import query
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.s3 import S3Proxy, S3Server, s3_proxy, s3_settings
from tests.support.waiting import within

LARGE = random.Random(7).randbytes(11 * 2**20 + 3)


def settings(bucket: str, address: str, **changes: Any) -> dict[str, Any]:
    return {"penstock_blob_url": f"s3://{bucket}/files", **s3_settings(address), **changes}


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[S3Proxy]:
    async with s3_proxy(s3) as proxy:
        yield proxy


@pytest.fixture
async def caller(database_url: str, bucket: str, proxy: S3Proxy) -> AsyncIterator[HttpCaller]:
    async with running_gateway(database_url, **settings(bucket, proxy.address)) as caller:
        yield caller


async def upload(caller: HttpCaller, data: bytes = LARGE) -> Any:
    return await caller.call("POST", "/blobs?filename=a.wav", body=data, headers={"Content-Type": "audio/wav"})


async def test_a_large_file_goes_to_s3_in_parts_and_comes_back(caller: HttpCaller, proxy: S3Proxy) -> None:
    blob = (await upload(caller)).json
    assert sum("partNumber" in path for _, path in proxy.requests) == 3
    path = f"/blobs/{blob['id']}"
    reply = await caller.get(path)
    assert (reply.status, reply.body) == (200, LARGE)
    reply = await caller.get(path, Range="bytes=5000000-6000000")
    assert (reply.status, reply.body) == (206, LARGE[5_000_000:6_000_001])
    assert (await caller.get("/readyz")).json == {"status": "ready", "files": "available"}
    metrics = (await caller.get("/metrics")).body.decode()
    assert 'penstock_blob_store_available{store="s3://' in metrics
    assert "penstock_blobs_missing 0.0" in metrics
    assert "penstock_blob_objects_due 0.0" in metrics


async def test_a_presigned_url_leads_to_the_bucket(caller: HttpCaller, proxy: S3Proxy) -> None:
    blob = (await upload(caller)).json
    url = (await caller.get(f"/blobs/{blob['id']}/url?ttl=60")).json["url"]
    assert url.startswith(proxy.address)
    assert "X-Amz-Expires=" in url
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert await response.read() == LARGE
        assert response.headers["Content-Type"] == "audio/wav"
        assert response.headers["Content-Disposition"].startswith('attachment; filename="a.wav"')
    small = (await upload(caller, b"small")).json
    assert (await caller.get(f"/blobs/{small['id']}/url")).json["url"].startswith("/api/v1/blobs/signed/")


async def test_urls_lead_to_the_gateway_if_the_bucket_is_not_reachable_for_others(
    database_url: str, bucket: str, s3: S3Server
) -> None:
    async with running_gateway(database_url, **settings(bucket, s3.address, penstock_blob_presign=False)) as caller:
        blob = (await upload(caller)).json
        url = (await caller.get(f"/blobs/{blob['id']}/url")).json["url"]
        assert (await caller.get(url)).body == LARGE


async def test_single_failures_of_s3_are_repaired_by_retries(caller: HttpCaller, proxy: S3Proxy) -> None:
    failed: set[str] = set()

    def every_first(request: Any) -> int | None:
        name = f"{request.method} {request.path_qs} {request.headers.get('Range')}"
        if name in failed:
            return None
        failed.add(name)
        return 500 if len(failed) % 2 else 503

    proxy.fault = every_first
    blob = await upload(caller)
    assert blob.status == 201, blob.body
    assert (await caller.get(f"/blobs/{blob.json['id']}")).body == LARGE
    assert len(failed) > 5


async def test_an_upload_that_s3_refuses_leaves_nothing(
    caller: HttpCaller, proxy: S3Proxy, s3: S3Server, bucket: str, fresh: Database
) -> None:
    await upload(caller)
    proxy.fault = lambda request: 403 if "partNumber=2" in request.path_qs else None
    reply = await upload(caller)
    assert reply.outcome == (503, "blob_store_unavailable")
    assert b"EXAMPLE" not in reply.body
    assert b"Signature" not in reply.body
    assert await query(fresh, "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_leftover)") == [(1, 0)]
    assert await s3.unfinished_uploads(bucket) == 0
    proxy.fault = lambda _: None
    assert (await upload(caller)).status == 201


async def test_a_slow_s3_holds_up_only_its_own_requests(caller: HttpCaller, proxy: S3Proxy) -> None:
    await upload(caller)
    proxy.holds = lambda request: request.method in {"PUT", "POST"}
    slow = asyncio.create_task(upload(caller))
    await within(proxy.held.wait())
    small = await within(upload(caller, b"small"))
    assert small.status == 201
    assert (await within(caller.get("/readyz"))).status == 200
    proxy.resumed.set()
    assert (await within(slow, 60)).status == 201


async def test_a_gateway_starts_without_its_store_and_uses_it_once_it_is_there(
    database_url: str, bucket: str, s3: S3Server
) -> None:
    port = free_port()
    async with running_gateway(database_url, **settings(bucket, f"http://127.0.0.1:{port}")) as caller:
        assert (await caller.get("/readyz")).json == {"status": "ready", "files": "unavailable"}
        assert (await upload(caller)).outcome == (503, "blob_store_unavailable")
        small = (await upload(caller, b"small")).json
        assert (await caller.get(f"/blobs/{small['id']}")).body == b"small"
        async with s3_proxy(s3, port=port):
            assert (await upload(caller)).status == 201


async def test_a_client_that_leaves_during_an_upload_leaves_nothing_at_s3(
    caller: HttpCaller, proxy: S3Proxy, s3: S3Server, bucket: str, fresh: Database
) -> None:
    await upload(caller)
    before = len(proxy.requests)

    async def breaking() -> AsyncIterator[bytes]:
        yield LARGE
        while not any("partNumber" in path for _, path in proxy.requests[before:]):
            await asyncio.sleep(0.01)
        raise ConnectionResetError

    with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
        await caller.session.post(f"{caller.address}/api/v1/blobs", data=breaking())
    from tests.support.waiting import until

    await until(lambda: not caller.in_progress, "the gateway has detected it")
    assert await query(fresh, "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_leftover)") == [(1, 0)]
    assert await s3.unfinished_uploads(bucket) == 0
