"""A file of a gigabyte up and down: the growth of the gateway's memory, and its CPU time, for each store."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database, process, until_ready
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

SIZE = 10**9  # bytes
_CHUNK = bytes(range(256)) * 1000
_WARM_UP = 20 * 2**20  # bytes
_PROMISE = 32.0  # MiB


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure each store in turn."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="penstock-files-") as folder:
        figures += await _measure(server, "a folder", {"PENSTOCK_BLOB_URL": (Path(folder) / "blobs").as_uri()})
        figures += await _measure(server, "PostgreSQL", {"PENSTOCK_BLOB_URL": "postgres"})
        async with _s3(Path(folder)) as settings:
            figures += await _measure(server, "S3", settings)
    return figures


async def _measure(server: EmbeddedServer, store: str, settings: dict[str, str]) -> list[Figure]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {"HTTP_PORT": str(port), "HTTP_HOST": "127.0.0.1", "PENSTOCK_MAX_BLOB_BYTES": str(2 * SIZE)}
    async with (
        fresh_database(server) as url,
        process("-m", "penstock", "gateway", DATABASE_URL=url, **environment, **settings) as gateway,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
    ):
        await until_ready(address)
        await _there_and_back(session, address, _WARM_UP)
        measured = psutil.Process(gateway.pid)
        before, cpu = measured.memory_info().rss, _cpu(measured)
        Path(f"/proc/{gateway.pid}/clear_refs").write_text("5")  # forgets the peak
        await _there_and_back(session, address, SIZE)
        growth = (_peak(gateway.pid) - before) / 2**20
        spent = _cpu(measured) - cpu
    return [
        Figure(
            scenario=f"1 GB up and down, {store}: growth of memory", value=growth, unit="MiB",
            promise=_PROMISE, at_most=True,
        ),
        Figure(scenario=f"1 GB up and down, {store}: CPU time of the gateway", value=spent, unit="s"),
    ]  # fmt: skip


async def _there_and_back(session: aiohttp.ClientSession, address: str, size: int) -> None:
    """Upload a file and download it, and compare."""
    async with session.post(f"{address}/api/v1/blobs", data=_content(size)) as response:
        if response.status != 201:
            raise RuntimeError(f"the upload got {response.status}: {await response.text()}")
        blob = await response.json()
    digest = hashlib.sha256()
    async with session.get(f"{address}/api/v1/blobs/{blob['id']}") as response:
        async for chunk in response.content.iter_any():
            digest.update(chunk)
    if (blob["size_bytes"], blob["sha256"]) != (size, digest.hexdigest()):
        raise RuntimeError("the file has changed on the way")


async def _content(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, len(_CHUNK)):
        yield _CHUNK[: size - start]


def _peak(pid: int) -> int:
    """Return the most resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def _cpu(measured: psutil.Process) -> float:
    times = measured.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def _s3(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Run moto's server of S3; yield the settings that lead to a bucket there."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    program = Path(sys.executable).with_name("moto_server")
    child = await asyncio.create_subprocess_exec(
        str(program), "-H", "127.0.0.1", "-p", str(port), cwd=folder,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.put(f"{address}/bucket") as response:
                        response.raise_for_status()
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.1)
        yield {
            "PENSTOCK_BLOB_URL": "s3://bucket/files",
            "PENSTOCK_BLOB_ENDPOINT": address,
            "AWS_ACCESS_KEY": "access-key-of-a-benchmark",
            "AWS_SECRET_KEY": "secret-key-of-a-benchmark",
        }
    finally:
        child.kill()
        await child.wait()
