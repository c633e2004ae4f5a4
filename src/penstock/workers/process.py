"""``penstock worker`` as a process: builds the parts, runs them, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from penstock.jobs.service import JobLimits, JobService
from penstock.models.host.host import ModelHost
from penstock.models.service import ModelService
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.settings import Settings
from penstock.telemetry import logs
from penstock.workers import http, llm, models
from penstock.workers.executors import Executors
from penstock.workers.worker import Worker

log = logs.get(__name__)


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then drain; a second signal hands back at once what still runs.

    The database need not be there: the worker waits for it.
    """
    async with AsyncExitStack() as parts:
        executors = await parts.enter_async_context(_executors(settings))
        service = await parts.enter_async_context(_service(settings))
        worker = Worker(
            service,
            worker_id=settings.worker_id,
            executors=executors,
            limit=settings.worker_claim_limit,
            lease=settings.worker_lease_timeout,
            poll=settings.worker_poll_interval,
            grace=settings.penstock_shutdown_grace,
            max_result_bytes=settings.penstock_max_result_bytes,
        )
        port = await parts.enter_async_context(
            http.serving(worker, host=settings.worker_http_host, port=settings.worker_http_port)
        )
        log.info("worker_started", worker_id=settings.worker_id, port=port, limit=settings.worker_claim_limit)
        await _until_signal(worker)
    log.info("worker_stopped", **worker.status())


async def _until_signal(worker: Worker) -> None:
    working = asyncio.create_task(worker.run())
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if stopping:
            working.cancel()
        else:
            log.info("worker_draining")
            stopping.append(asyncio.create_task(worker.stop()))

    with _on_signals(stop):
        try:
            await working
        except asyncio.CancelledError:
            if not stopping:  # cancelled from outside, not by the second signal
                raise


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[JobService]:
    database = Database(database_url(settings), application_name="penstock-worker")
    service = JobService(database, JobLimits.from_settings(settings))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await database.close()


@asynccontextmanager
async def _executors(settings: Settings) -> AsyncIterator[Executors]:
    """What this worker can run by its settings: the LLM, and models as they come and go."""
    executors = Executors()
    async with AsyncExitStack() as parts:
        if settings.llm_base_url is not None:
            chat = llm.ChatExecutor(
                llm.ChatEndpoint(
                    base_url=settings.llm_base_url,
                    model=settings.llm_model,
                    api_key=settings.llm_api_key.get_secret_value() if settings.llm_api_key else None,
                    timeout=settings.llm_timeout,
                )
            )
            parts.push_async_callback(chat.close)
            executors.add(chat, task_types=llm.TASK_TYPES, model_profiles=[settings.llm_model])
        found = await parts.enter_async_context(_models(settings))
        if found is not None:
            offering = asyncio.create_task(models.offer(found, executors))
            parts.callback(offering.cancel)
        elif settings.llm_base_url is None:
            log.warning(
                "nothing_to_run", reason="none of LLM_BASE_URL, PENSTOCK_MODELS_DIR and PENSTOCK_MODELS_URL is set"
            )
        yield executors


@asynccontextmanager
async def _models(settings: Settings) -> AsyncIterator[models.Models | None]:
    """The models that predict jobs run on: a gateway's, or this process's own."""
    token = settings.ai_service_token
    if settings.penstock_models_url is not None:
        remote = models.GatewayModels(
            settings.penstock_models_url, token=token.get_secret_value() if token is not None else None
        )
        try:
            yield remote
        finally:
            await remote.close()
    elif settings.penstock_models_dir is not None:
        service = ModelService(ModelHost(private=Settings.descriptions()), folder=settings.penstock_models_dir)
        await service.start()
        try:
            yield models.HostedModels(service)
        finally:
            await service.stop()
    else:
        yield None
