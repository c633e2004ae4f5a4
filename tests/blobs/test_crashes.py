"""Processes that are killed while they write or move files, and disks that are full: nothing is lost, left over or
doubled."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.assembly.shared import blob_service
from penstock.blobs.service import BlobService
from penstock.housekeeping.sweeper import Sweeper
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from tests.support.clocks import Clock
from tests.support.databases import query
from tests.support.gateways import settings_for
from tests.support.processes import clean_environment, penstock
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Proxy, S3Server, s3_proxy, s3_settings
from tests.support.waiting import succeeds, until, within

DATA = random.Random(8).randbytes(6 * 2**20)
INLINE = 100_000


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[S3Proxy]:
    async with s3_proxy(s3) as proxy:
        yield proxy


def service(database: Database, **settings: Any) -> BlobService:
    return blob_service(settings_for(database.url, penstock_blob_inline_bytes=INLINE, **settings), database)


def variables(url: str, **settings: str) -> dict[str, str]:
    return clean_environment(
        DATABASE_URL=url, MIGRATE_ON_START="false", PENSTOCK_BLOB_INLINE_BYTES=str(INLINE), **settings
    )


@asynccontextmanager
async def gateway(folder: Path, environment: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A gateway in a process of its own, and its address."""
    port = free_port()
    stated = environment | {"HTTP_PORT": str(port), "HTTP_HOST": "127.0.0.1"}
    async with penstock("gateway", environment=stated, folder=folder, log=folder / "gateway.log") as process:
        address = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                try:
                    async with session.get(f"{address}/readyz") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(ready, "the gateway is ready")
        yield process, address


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]


async def put(blobs: BlobService, data: bytes) -> Any:
    return (await blobs.put(1, pieces(data), media_type="audio/wav", filename="a.wav")).id


async def whole(blobs: BlobService, blob_id: Any) -> bytes:
    return b"".join([piece async for piece in blobs.read(1, blob_id)])


async def rows(database: Database) -> tuple[Any, ...]:
    """Return the numbers of blobs, of objects with parts in PostgreSQL, and of leftovers."""
    (found,) = await query(
        database,
        "SELECT (SELECT count(*) FROM blob), (SELECT count(DISTINCT key) FROM blob_part),"
        " (SELECT count(*) FROM blob_leftover)",
    )
    return found


async def objects_of(blobs: BlobService) -> list[str]:
    return [one.key for objects in blobs.stores.outside() for one in await objects.listed(after="", limit=100)]


async def sweep(database: Database, blobs: BlobService) -> None:
    while await Sweeper(database, blobs).once():
        pass


@pytest.mark.parametrize("store", ["postgres", "folder"])
async def test_a_gateway_killed_during_an_upload_leaves_nothing_for_good(
    fresh: Database, fresh_clock: Clock, tmp_path: Path, store: str
) -> None:
    url = "postgres" if store == "postgres" else (tmp_path / "blobs").as_uri()
    blobs = service(fresh, penstock_blob_url=url)
    async with gateway(tmp_path, variables(fresh.url, PENSTOCK_BLOB_URL=url)) as (process, address):

        async def hanging() -> AsyncIterator[bytes]:
            yield DATA
            await asyncio.Event().wait()

        async with aiohttp.ClientSession() as session:
            upload = asyncio.create_task(session.post(f"{address}/api/v1/blobs", data=hanging()))

            async def written() -> bool:
                if store == "postgres":
                    return bool((await rows(fresh))[1] == 1)
                return any(path.stat().st_size > 5 * 2**20 for path in (tmp_path / "blobs").rglob("*~"))

            await until(written, "bytes are stored")
            process.kill()
            with pytest.raises(aiohttp.ClientError):
                await within(upload)
    assert (await rows(fresh))[0] == 0
    assert (await rows(fresh))[2] == 1, "the object is known"
    await fresh_clock.advance(timedelta(hours=25))
    await sweep(fresh, blobs)
    assert await rows(fresh) == (0, 0, 0)
    assert [path.name for path in (tmp_path / "blobs").rglob("*")] in ([], ["penstock-store"])


@pytest.mark.parametrize("at", ["PUT", "GET", "DELETE"])
async def test_a_mover_killed_at_any_request_loses_and_doubles_nothing(
    fresh: Database, fresh_clock: Clock, tmp_path: Path, bucket: str, proxy: S3Proxy, at: str
) -> None:
    """It is killed while it copies to S3, while it reads the copy back, and while it removes an original from S3."""
    here, there = ((tmp_path / "blobs").as_uri(), f"s3://{bucket}/files")
    old, new = (there, here) if at == "DELETE" else (here, there)
    cloud = s3_settings(proxy.address)
    before = service(fresh, penstock_blob_url=old, **(cloud if old == there else {}))
    data = {await put(before, DATA[:size]): DATA[:size] for size in (INLINE + 1, 2**20, len(DATA))}
    after = service(fresh, penstock_blob_url=new, penstock_blob_previous_urls=(old,), **cloud)
    await after.stores.current_id()
    proxy.holds = lambda request: (
        (request.method == at or (at == "DELETE" and "delete" in request.query))
        and ("penstock-store" not in request.path)
    )
    environment = variables(
        fresh.url,
        PENSTOCK_BLOB_URL=new,
        PENSTOCK_BLOB_PREVIOUS_URLS=old,
        PENSTOCK_BLOB_ENDPOINT=proxy.address,
        AWS_ACCESS_KEY=ACCESS_KEY,
        AWS_SECRET_KEY=SECRET_KEY,
    )
    async with penstock(
        "blob", "migrate", environment=environment, folder=tmp_path, log=tmp_path / "migrate.log"
    ) as mover:
        ended = asyncio.create_task(mover.wait())
        held = asyncio.create_task(proxy.held.wait())
        await asyncio.wait([ended, held], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert not ended.done(), (tmp_path / "migrate.log").read_text()
        mover.kill()
        await ended
    proxy.holds = lambda _: False
    proxy.resumed.set()
    for blob, content in data.items():
        assert await whole(after, blob) == content, "each is whole wherever it is"
    async with penstock(
        "blob", "migrate", environment=environment, folder=tmp_path, log=tmp_path / "migrate.log"
    ) as mover:
        assert await asyncio.wait_for(mover.wait(), 60) == 0, (tmp_path / "migrate.log").read_text()
    for blob, content in data.items():
        assert await whole(after, blob) == content
    await fresh_clock.advance(timedelta(hours=25))
    await sweep(fresh, after)
    assert await rows(fresh) == (3, 0, 0)
    assert len(await objects_of(after)) == 3, "no copy is left, in either store"
    assert len(await after.stores.current.listed(after="", limit=10)) == 3


async def test_a_full_disk_refuses_the_upload_and_nothing_else(fresh: Database, tmp_path: Path) -> None:
    """The limit on the size of a process's files stands for a full disk: writing fails in the same way."""
    url = (tmp_path / "blobs").as_uri()
    environment = variables(fresh.url, PENSTOCK_BLOB_URL=url)
    program = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({2**20}, resource.RLIM_INFINITY));"
        "sys.argv = ['penstock', 'gateway']; runpy.run_module('penstock', run_name='__main__')"
    )
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=tmp_path,
        env=environment | {"HTTP_PORT": str(port), "HTTP_HOST": "127.0.0.1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/api/v1/blobs"
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(ready, "the gateway is ready")

            async def refused() -> Any:
                async with session.post(address, data=pieces(DATA[: 2**20 + INLINE])) as response:
                    assert response.status == 503
                    return await response.json()

            # The gateway closes the connection, so a client that is still sending may not get the response.
            problem = await succeeds(refused, unless=aiohttp.ClientError)
            assert problem["code"] == "blob_store_unavailable"
            assert "has no space left" in problem["detail"]
            assert await rows(fresh) == (0, 0, 0)
            assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["penstock-store"]
            async with session.post(address, data=pieces(DATA[: INLINE + 5])) as stored:
                assert stored.status == 201
    finally:
        process.kill()
        await process.wait()
