"""A worker with a flow runner, in the test's process. The code of the flows runs in its own process, as always."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from penstock.apps.folder import AppsFolder
from penstock.apps.result_check import ResultCheck
from penstock.apps.worker_part import worker_part as apps_part
from penstock.failures import Category
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.process.program import Limits
from penstock.flows.program.folders import FlowFolders
from penstock.flows.runner.executor import RunLimits
from penstock.flows.runner.runner import FlowRunner
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.work.context import JobContext
from penstock.work.executor import ExecutionError
from penstock.work.executors import Executors, Offer
from penstock.workers.worker import Worker


class Running:
    """A worker with a flow runner and one executor of ordinary jobs, in this process."""

    def __init__(self, runner: FlowRunner, worker: Worker, calls: list[Any]) -> None:
        self.runner = runner
        self.worker = worker
        self.calls = calls  # the inputs of the ordinary jobs, as they began


@asynccontextmanager
async def running(
    service: JobService,
    database: Database,
    folder: Path | FlowFolders,
    *,
    linger: float = 0.3,
    limits: Limits | None = None,
    jobs: bool = True,
    resident: int = 100,
    offers: Sequence[Offer] = (),
) -> AsyncIterator[Running]:
    folders = FlowFolders.of(folder) if isinstance(folder, Path) else folder
    apps = None if folders.apps is None else AppsFolder(folders.apps)
    process = FlowProcess(
        folders,
        ours=os.environ,
        private=frozenset({"DATABASE_URL"}),
        watched=apps is not None,
        limits=limits,
        defaults=None if apps is None else apps.variables,
    )
    publishing = None if apps is None else apps_part(apps, database=database, process=process, models=None)
    runner = FlowRunner(
        database,
        service,
        process,
        limits=RunLimits(linger=timedelta(seconds=linger)),
        max_resident=resident,
        check_result=None if apps is None else ResultCheck(apps),
    )
    executors = Executors()
    calls: list[Any] = []

    async def echo(job: ClaimedJob, _context: JobContext) -> object:
        given = msgspec.json.decode(job.input)
        calls.append(given)
        if isinstance(given, dict) and given.get("fail"):
            raise ExecutionError(Category.BAD_INPUT, "it is to fail")
        return given

    if jobs:
        executors.add(echo, task_types=["predict"], model_profiles=["echo"])
    for offer in offers:
        executors.serve(offer)
    worker = Worker(
        service, worker_id="w", executors=executors, limit=8, lease=timedelta(seconds=30), grace=timedelta(0)
    )
    await runner.start()
    if publishing is not None and publishing.start is not None:
        await publishing.start()
    tasks = [asyncio.create_task(runner.follow(executors)), asyncio.create_task(worker.run())]
    try:
        yield Running(runner, worker, calls)
    finally:
        await worker.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if publishing is not None and publishing.stop is not None:
            await publishing.stop()
        await runner.stop()
