"""Shared by all scenarios: a private server, fresh databases, and Penstock's processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
from msgspec import Raw

from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.postgres.embedded import EmbeddedServer, embedded_url
from penstock.postgres.migrate import migrate
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port

INPUT = b'{"text":"' + b"x" * 480 + b'"}'  # about 500 bytes, as in typical jobs
RESULT = b'{"content":"' + b"y" * 250 + b'"}'
SUBMISSION = JobSubmission(
    owner_service="bench", owner_ref="bench/1", task_type="noop", model_profile="none", input=Raw(INPUT)
)
_numbers = itertools.count(1)


@asynccontextmanager
async def fresh_database(server: EmbeddedServer, *, migrated: bool = True) -> AsyncIterator[str]:
    """Yield the URL of an empty database, with Penstock's schema unless ``migrated`` is False."""
    name = f"bench_{next(_numbers)}"
    admin = await asyncpg.connect(embedded_url(server.data_dir, "postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    url = embedded_url(server.data_dir, name)
    if migrated:
        await migrate(url)
    await admin.execute("CHECKPOINT")
    try:
        yield url
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@asynccontextmanager
async def service(url: str) -> AsyncIterator[tuple[JobService, Database]]:
    """Yield the job service in this process."""
    database = Database(url, application_name="penstock-bench")
    await database.open()
    jobs = JobService(database)
    await jobs.start()
    try:
        yield jobs, database
    finally:
        await jobs.stop()
        await database.close()


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python process while the block runs, and end it with SIGTERM."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, "PENSTOCK_LOG_LEVEL": "warning", **environment},
        cwd=Path(__file__).parents[1],
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.wait()


@asynccontextmanager
async def gateway(url: str, **variables: str) -> AsyncIterator[str]:
    """Run one gateway process on the database; yield its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {"DATABASE_URL": url, "HTTP_PORT": str(port), "HTTP_HOST": "127.0.0.1", **variables}
    async with process("-m", "penstock", "gateway", **environment):
        await until_ready(address)
        yield address


async def until_ready(address: str) -> None:
    """Wait until the server reports that it is ready."""
    async with aiohttp.ClientSession() as session:
        for _ in range(3000):
            try:
                async with session.get(f"{address}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.01)
    raise TimeoutError(f"{address} did not become ready")
