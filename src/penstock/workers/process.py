"""The process of ``penstock worker``: starts the parts, runs the worker, and drains it on SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from penstock.jobs.service import JobService
from penstock.part import started
from penstock.processes.garbage import collect_rarely
from penstock.processes.stopping import on_signals
from penstock.settings import Settings
from penstock.telemetry import logs
from penstock.work.executors import Executors
from penstock.workers import http
from penstock.workers.part import WorkerPart
from penstock.workers.worker import Worker

log = logs.get(__name__)


async def run(settings: Settings, jobs: JobService, parts: Sequence[WorkerPart]) -> None:
    """Work until SIGTERM or SIGINT, then drain; on a second signal, hand back running jobs at once.

    ``parts`` start in order, the job service among them. The worker waits for the database if it is unavailable.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(started(parts))
        executors = await stack.enter_async_context(_offered(parts))
        worker = Worker(
            jobs,
            worker_id=settings.worker_id,
            executors=executors,
            limit=settings.worker_claim_limit,
            lease=settings.worker_lease_timeout,
            poll=settings.worker_poll_interval,
            grace=settings.penstock_shutdown_grace,
            max_result_bytes=settings.penstock_max_result_bytes,
        )
        port = await stack.enter_async_context(
            http.serving(
                worker,
                host=settings.worker_http_host,
                port=settings.worker_http_port,
                token=settings.ai_service_token,
            )
        )
        collect_rarely()
        log.info("worker_started", worker_id=settings.worker_id, port=port, limit=settings.worker_claim_limit)
        await _until_signal(worker)
    log.info("worker_stopped", **worker.status())


@asynccontextmanager
async def _offered(parts: Sequence[WorkerPart]) -> AsyncIterator[Executors]:
    """Yield the executors of all parts; those that a part follows may come and go until the block ends."""
    executors = Executors()
    for part in parts:
        for offer in part.executors:
            executors.serve(offer)
    following = [asyncio.ensure_future(part.follow(executors)) for part in parts if part.follow is not None]
    if not any(part.executors or part.follow is not None for part in parts if not part.always):
        log.warning(
            "nothing_to_run",
            reason="there are no model profiles (LLM_BASE_URL, WHISPERX_URL, profiles.toml), and none of "
            "PENSTOCK_MODELS_DIR, PENSTOCK_MODELS_URL, PENSTOCK_FLOWS_DIR and PENSTOCK_APPS_DIR is set",
        )
    try:
        yield executors
    finally:
        for task in following:
            task.cancel()


async def _until_signal(worker: Worker) -> None:
    working = asyncio.create_task(worker.run())
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if stopping:
            working.cancel()
        else:
            log.info("worker_draining")
            stopping.append(asyncio.create_task(worker.stop()))

    with on_signals(stop):
        try:
            await working
        except asyncio.CancelledError:
            if not stopping:  # cancelled from outside, not by the second signal
                raise
