"""A worker process whose one executor does nothing; it ends when there is nothing left to do."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta

import uvloop
from msgspec import Raw

from benchmarks.ground import RESULT, SUBMISSION
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.processes.garbage import collect_rarely
from penstock.telemetry import logs
from penstock.tenants.principal import DEFAULT_TENANT
from penstock.work.context import JobContext
from penstock.work.executors import Executors
from penstock.workers.worker import Worker

_ANSWER = Raw(RESULT)


async def noop(_job: ClaimedJob, _context: JobContext) -> Raw:
    return _ANSWER


async def main() -> None:
    logs.configure(level="info", form="json")  # as in production: the log lines of attempts are at "debug"
    database = Database(os.environ["DATABASE_URL"], application_name="penstock-worker")
    await database.open()
    service = JobService(database)
    await service.start()
    executors = Executors()
    executors.add(noop, task_types=[SUBMISSION.task_type], model_profiles=[SUBMISSION.model_profile])
    worker = Worker(
        service,
        worker_id="bench",
        executors=executors,
        limit=int(os.environ.get("BENCH_LIMIT", "1000")),
        lease=timedelta(minutes=15),
        poll=timedelta(seconds=2),
        grace=timedelta(seconds=5),
    )
    collect_rarely()
    print("begin", time.time(), flush=True)
    running = asyncio.create_task(worker.run())
    if "BENCH_STAY" not in os.environ:
        while (await service.of(DEFAULT_TENANT).stats()).totals.pending:
            await asyncio.sleep(0.5)
        await worker.stop()
    await running
    await service.stop()
    await database.close()


if __name__ == "__main__":
    uvloop.run(main())
