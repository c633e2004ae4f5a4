"""The memory of a gateway while large files pass through it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from penstock.supervisor.ports import free_port
from tests.support.processes import clean_environment, penstock
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.waiting import until

SIZE = 96 * 2**20
MOST = 32 * 2**20  # bytes of growth, for a file of any size
CHUNK = bytes(range(256)) * 1024


async def content(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(CHUNK)):
        yield CHUNK


@pytest.mark.parametrize("store", ["folder", "s3", "postgres"])
async def test_memory_does_not_grow_with_the_size_of_a_file(
    database_url: str, tmp_path: Path, s3: S3Server, bucket: str, store: str
) -> None:
    """The peak of a process's own memory is read from the kernel, up and down."""
    urls = {"folder": (tmp_path / "blobs").as_uri(), "s3": f"s3://{bucket}/files", "postgres": "postgres"}
    environment = clean_environment(
        DATABASE_URL=database_url, MIGRATE_ON_START="false", PENSTOCK_BLOB_URL=urls[store], HTTP_HOST="127.0.0.1"
    )
    if store == "s3":
        environment |= {
            "PENSTOCK_BLOB_ENDPOINT": s3.address, "AWS_ACCESS_KEY": ACCESS_KEY, "AWS_SECRET_KEY": SECRET_KEY,
        }  # fmt: skip
    port = free_port()
    environment["HTTP_PORT"] = str(port)
    address = f"http://127.0.0.1:{port}"
    async with (
        penstock("gateway", environment=environment, folder=tmp_path) as gateway,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=110)) as session,
    ):

        async def ready() -> bool:
            try:
                async with session.get(f"{address}/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        async def there_and_back(size: int) -> None:
            async with session.post(f"{address}/api/v1/blobs", data=content(size)) as response:
                assert response.status == 201, await response.text()
                blob = await response.json()
            digest = hashlib.sha256()
            async with session.get(f"{address}/api/v1/blobs/{blob['id']}") as response:
                async for chunk in response.content.iter_any():
                    digest.update(chunk)
            assert (blob["size_bytes"], blob["sha256"]) == (size, digest.hexdigest())

        await until(ready, "the gateway is ready")
        await there_and_back(8 * 2**20)
        before = psutil.Process(gateway.pid).memory_info().rss
        Path(f"/proc/{gateway.pid}/clear_refs").write_text("5")  # forgets the peak
        await there_and_back(SIZE)
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak - before < MOST
