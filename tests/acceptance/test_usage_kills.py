"""Usage while processes are killed and connections are cut: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from penstock.usage.sql import rollup
from tests.support.database_proxy import SOCKET, DatabaseProxy, database_over
from tests.support.databases import open_database, query
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
MODEL = """
class Model:
    def predict(self, text: str) -> str:
        return text
"""
MEASURES = ("attempts", "calls", "failures", "unreported", "unpriced", "model_us", "bytes_in", "bytes_out", "cost")
SUMS = ", ".join(f"coalesce(sum({name}), 0)::text" for name in MEASURES)


@dataclass(slots=True)
class Load:
    """Live calls of one client."""

    sent: int = 0
    acknowledged: int = 0

    async def run(self, url: str) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while True:
                self.sent += 1
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.post(f"{url}/api/v1/models/echo/predict", json={"text": "x"}) as response:
                        if response.status == 200 and await response.json() == "x":
                            self.acknowledged += 1
                        elif response.status in {404, 503}:  # it was not called: the gateway has just started
                            self.sent -= 1
                await asyncio.sleep(0.002)


class Role:
    """A process that is killed and started again."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._stack = AsyncExitStack()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await self._stack.enter_async_context(self._start())

    async def kill(self) -> None:
        """Send SIGKILL, and start it again."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await self.start()

    async def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        await asyncio.wait_for(self.process.wait(), 30)
        await self._stack.aclose()


@asynccontextmanager
async def _worker(url: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.acceptance.echo_worker",
        cwd=folder,
        env=clean_environment(
            WORKER_ID="w",
            DATABASE_URL=url,
            PAUSE_SECONDS="0.01",
            LEASE_SECONDS="1",
            PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        ),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _write_model(folder: Path) -> Path:
    models = folder / "models" / "echo"
    models.mkdir(parents=True)
    (models / "model.toml").write_text('name = "echo"\nruntime = "python"\n[python]\nclass = "model:Model"\n')
    (models / "model.py").write_text(MODEL)
    return folder / "models"


async def _submitted(url: str, count: int) -> None:
    job = {"owner_service": "tests", "task_type": "echo", "model_profile": "small", "max_attempts": 100}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/jobs/batch", json={"defaults": job, "jobs": [{}] * count}) as response,
    ):
        assert response.status == 201, await response.text()


async def _sums(database: Database, table: str, where: str = "true") -> tuple[Any, ...]:
    return (await query(database, f"SELECT {SUMS} FROM {table} WHERE {where}"))[0]


async def _unfinished(database: Database) -> int:
    ((count,),) = await query(database, "SELECT count(*) FROM job WHERE id NOT IN (SELECT job_id FROM done)")
    return int(count)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
async def test_sums_of_hours_days_and_detail_agree_with_what_was_acknowledged(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    pick = random.Random(seed)
    (host,) = parse_qs(urlsplit(database_url).query)["host"]
    (tmp_path / "line").mkdir()
    line = DatabaseProxy(tmp_path / "line", f"{host}/{SOCKET}")
    await line.mend()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    gateway_environment = clean_environment(
        DATABASE_URL=database_over(line, database_url).url,
        HTTP_PORT=str(port),
        PENSTOCK_MODELS_DIR=str(_write_model(tmp_path)),
        PENSTOCK_USAGE_SPOOL=str(tmp_path / "spool"),
    )
    other = clean_environment(DATABASE_URL=database_url)
    gateway = Role(lambda: penstock("gateway", environment=gateway_environment, folder=tmp_path))
    housekeepers = [Role(lambda: penstock("housekeeper", environment=other, folder=tmp_path)) for _ in range(2)]
    worker = Role(lambda: _worker(database_url, tmp_path))
    load = Load()
    async with open_database(database_url) as database:
        for role in (gateway, *housekeepers, worker):
            await role.start()
        loading = asyncio.create_task(load.run(address))
        await until(lambda: load.acknowledged > 20, "the model is called")
        for action in pick.sample(["gateway", "housekeeper", "worker", "gateway", "line", "line"], k=6):
            await _submitted(address, 30)
            acknowledged = load.acknowledged
            match action:
                case "gateway":
                    await gateway.kill()
                case "housekeeper":
                    await pick.choice(housekeepers).kill()
                case "worker":
                    await worker.kill()
                case "line":
                    line.lose_response_to(b"echo")
                    await asyncio.wait_for(line.lost.wait(), 30)
            await until(lambda known=acknowledged: load.acknowledged > known + 50, "the model is called again")  # type: ignore[misc]
        await until(lambda: _no_jobs_left(database), "all jobs are finished")
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await gateway.stop()
        await worker.stop()
        for housekeeper in housekeepers:
            await housekeeper.stop()
        async with database.acquire() as connection:
            while await rollup.roll_up(connection):
                pass
        assert not list((tmp_path / "spool").rglob("*.usage")), "the spool is in the ledger"
        detail = await _sums(database, "usage_detail")
        for unit in ("hour", "day", "month"):
            assert detail == await _sums(database, "usage_sum", f"unit = '{unit}' AND NOT broad")
            assert detail == await _sums(database, "usage_sum", f"unit = '{unit}' AND broad")
        ((live,),) = await query(
            database,
            "SELECT coalesce(sum(calls), 0)::int FROM usage_sum h JOIN usage_dims d ON d.id = h.dims_id"
            " WHERE d.model = 'echo' AND h.unit = 'hour' AND NOT h.broad",
        )
        assert load.acknowledged <= live <= load.sent
        attempts = await query(database, "SELECT sum(attempt)::int FROM done")
        counted = await query(database, "SELECT sum(attempts)::int FROM usage_sum WHERE unit = 'hour' AND NOT broad")
        assert counted == attempts
    await line.cut()


async def _no_jobs_left(database: Database) -> bool:
    return await _unfinished(database) == 0
