"""A worker process for tests: it returns each job's input and its own name, and prints how attempts ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import timedelta

import msgspec

from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.work.context import JobContext
from penstock.work.executors import Executors
from penstock.workers.worker import Worker


async def main() -> None:
    name, pause = os.environ["WORKER_ID"], float(os.environ["PAUSE_SECONDS"])

    async def echo(job: ClaimedJob, _context: JobContext) -> object:
        await asyncio.sleep(pause)  # the work
        return {"input": msgspec.json.decode(job.input), "by": name}

    executors = Executors()
    executors.add(echo, task_types=["echo"], model_profiles=["small"])
    database = Database(os.environ["DATABASE_URL"], application_name="penstock-worker")
    await database.open(timeout=timedelta(seconds=20))
    service = JobService(database)
    await service.start()
    lease = timedelta(seconds=float(os.environ["LEASE_SECONDS"]))
    worker = Worker(service, worker_id=name, executors=executors, limit=8, lease=lease, grace=timedelta(seconds=5))
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    running = asyncio.create_task(worker.run())
    await stopping.wait()
    await worker.stop()
    await running
    await service.stop()
    await database.close()
    print(json.dumps(worker.status()["outcomes"]), flush=True)  # noqa: T201


if __name__ == "__main__":
    logs.configure(level="error", form="json")
    asyncio.run(main())
