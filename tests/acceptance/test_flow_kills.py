"""Flows while their processes are killed: the same results, and each child job once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT
from penstock.work.context import JobContext
from penstock.work.executors import Executors
from penstock.workers.worker import Worker
from tests.support.databases import query
from tests.support.processes import children, clean_environment, penstock
from tests.support.waiting import until

FLOWS = """
import asyncio
from penstock.flows import flow, run

@flow(name="work", version="1")
async def work(number: int) -> list:
    first = await run.call("count", f"{number}/first")
    inline = await run.side_effect(lambda: number * 10)
    both = await run.gather(run.call("count", f"{number}/a"), run.call("count", f"{number}/b"))
    await run.sleep(0.05)
    items = await run.map("count", [f"{number}/{item}" for item in range(20)], limit=8)
    return [first, inline, both, len(items)]
"""
RUNS = 12
PER_RUN = 23


def expected(number: int) -> list[Any]:
    return [f"{number}/first", number * 10, [f"{number}/a", f"{number}/b"], 20]


class Counting:
    """A worker in the test's process, which is not killed; it counts what it does."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    async def __call__(self, job: ClaimedJob, _context: JobContext) -> object:
        given = msgspec.json.decode(job.input)
        self.done[given] += 1
        await asyncio.sleep(random.random() * 0.02)
        return given


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[JobService]:
    database = Database(database_url, application_name="penstock-test")
    service = JobService(database)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await database.close()


@asynccontextmanager
async def counting(service: JobService) -> AsyncIterator[Counting]:
    count = Counting()
    executors = Executors()
    executors.add(count, task_types=["predict"], model_profiles=["count"])
    worker = Worker(service, worker_id="counting", executors=executors, limit=4, lease=timedelta(seconds=60))
    task = asyncio.create_task(worker.run())
    try:
        yield count
    finally:
        await worker.stop()
        await task


class Runner:
    """The process of a worker that runs flows, which is killed and started again."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._environment = clean_environment(
            DATABASE_URL=url,
            PENSTOCK_FLOWS_DIR=str(folder / "flows"),
            WORKER_HTTP_PORT="0",
            WORKER_LEASE_TIMEOUT="1s",
            PENSTOCK_FLOWS_LINGER="200ms",
            WORKER_ID="runner",
        )
        self._stack = AsyncExitStack()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await self._stack.enter_async_context(
            penstock("worker", environment=self._environment, folder=self._folder, log=self._folder / "runner.log")
        )

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await self.start()

    def flow_processes(self) -> list[int]:
        """The processes that run the code of flows."""
        assert self.process is not None
        found = children(self.process.pid)
        return [pid for pid, line in found.items() if "penstock.flows.program" in line]

    async def stop(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def processes(url: str, folder: Path) -> AsyncIterator[Runner]:
    (folder / "flows").mkdir()
    (folder / "flows" / "work.py").write_text(FLOWS)
    environment = clean_environment(DATABASE_URL=url, WORKER_LEASE_TIMEOUT="1s")
    runner = Runner(url, folder)
    async with penstock("housekeeper", environment=environment, folder=folder, log=folder / "housekeeper.log"):
        await runner.start()
        try:
            yield runner
        finally:
            await runner.stop()


async def submit(service: JobService, count: int) -> dict[UUID, int]:
    jobs = service.of(DEFAULT_TENANT)
    found = {}
    for number in range(count):
        submission = JobSubmission(
            owner_service="tests",
            task_type="flow",
            model_profile="work@1",
            input=Raw(msgspec.json.encode({"number": number})),
        )
        found[(await jobs.submit(submission)).job.id] = number
    return found


async def all_ended(service: JobService, runs: dict[UUID, int]) -> bool:
    stats = await service.of(DEFAULT_TENANT).stats()
    flows = [queue for queue in stats.queues if queue.model_profile == "work@1"]
    return sum(queue.completed + queue.failed + queue.cancelled for queue in flows) == len(runs)


async def check(service: JobService, database: Database, runs: dict[UUID, int], count: Counting) -> None:
    """Check results, effects, and that nothing is left."""
    jobs = service.of(DEFAULT_TENANT)
    for run_id, number in runs.items():
        job = await jobs.get(run_id)
        assert job.status is Status.COMPLETED, job.error
        assert job.result is not None
        assert msgspec.json.decode(job.result) == expected(number)
    assert len(count.done) == PER_RUN * len(runs)
    assert set(count.done.values()) == {1}, "each child job has run once"
    for table in ("flow_gate", "flow_timer", "flow_block", "flow_doomed", "lease", "ready", "later"):
        assert await query(database, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_runs_survive_kills_of_the_runner(service: JobService, database_url: str, tmp_path: Path) -> None:
    async with processes(database_url, tmp_path) as runner, counting(service) as count:
        runs = await submit(service, RUNS)
        for kills in range(5):
            seen = PER_RUN * RUNS * (kills + 1) // 8
            await until(lambda least=seen: count.done.total() >= least, "some child jobs have run")  # type: ignore[misc]
            await runner.kill()
        await until(lambda: all_ended(service, runs), "all runs have ended", seconds=90)
        await check(service, service._shared.database, runs, count)


async def test_runs_survive_kills_of_the_process_of_their_code(
    service: JobService, database_url: str, tmp_path: Path
) -> None:
    async with processes(database_url, tmp_path) as runner, counting(service) as count:
        runs = await submit(service, RUNS)
        for kills in range(5):
            seen = PER_RUN * RUNS * (kills + 1) // 8
            await until(lambda least=seen: count.done.total() >= least, "some child jobs have run")  # type: ignore[misc]
            await until(lambda: bool(runner.flow_processes()), "the process of the flows runs")
            for pid in runner.flow_processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await until(lambda: all_ended(service, runs), "all runs have ended", seconds=90)
        await check(service, service._shared.database, runs, count)


MAPPED = """
from penstock.flows import flow, run

@flow(name="mapped", version="1")
async def mapped(count: int) -> list:
    return await run.map("slow", [{"number": number} for number in range(count)], limit=8)
"""
SLOW = """
import time

class Model:
    def predict(self, number: int) -> int:
        with open("{done}", "a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.02)
        return number
"""


async def test_a_map_survives_kills_of_the_worker_of_its_items(
    service: JobService, database_url: str, tmp_path: Path
) -> None:
    """An item that the killed worker had begun runs again; its result comes once."""
    done = tmp_path / "done"
    done.touch()
    (tmp_path / "models" / "slow").mkdir(parents=True)
    (tmp_path / "models" / "slow" / "model.toml").write_text(
        'runtime = "python"\n[python]\nclass = "slow_model:Model"\n'
    )
    (tmp_path / "models" / "slow" / "slow_model.py").write_text(SLOW.replace("{done}", str(done)))
    environment = clean_environment(
        DATABASE_URL=database_url,
        PENSTOCK_MODELS_DIR=str(tmp_path / "models"),
        WORKER_HTTP_PORT="0",
        WORKER_LEASE_TIMEOUT="1s",
    )
    async with AsyncExitStack() as stack, processes(database_url, tmp_path) as runner:
        (tmp_path / "flows" / "mapped.py").write_text(MAPPED)
        await runner.kill()

        async def started() -> asyncio.subprocess.Process:
            return await stack.enter_async_context(
                penstock("worker", environment=environment, folder=tmp_path, log=tmp_path / "worker.log")
            )

        worker = await started()
        submission = JobSubmission(
            owner_service="tests", task_type="flow", model_profile="mapped@1", input=Raw(b'{"count": 60}')
        )
        run_id = (await service.of(DEFAULT_TENANT).submit(submission)).job.id
        for least in (10, 30):
            await until(lambda least=least: len(done.read_text().split()) >= least, "items have run")  # type: ignore[misc]
            worker.kill()
            await worker.wait()
            worker = await started()

        async def ended() -> bool:
            return (await service.of(DEFAULT_TENANT).get(run_id)).status.finished

        await until(ended, "the run has ended", seconds=90)
        job = await service.of(DEFAULT_TENANT).get(run_id)
        assert job.status is Status.COMPLETED, job.error
        assert job.result is not None
        assert msgspec.json.decode(job.result) == list(range(60))
    assert set(done.read_text().split()) == set(map(str, range(60)))
