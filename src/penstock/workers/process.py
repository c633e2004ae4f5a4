"""The process of ``penstock worker``: builds the parts, runs them, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from penstock.blobs.service import BlobService
from penstock.client import Client
from penstock.errors import DatabaseUnavailable, FieldProblem, SettingsError
from penstock.jobs.service import JobService
from penstock.models.service import ModelService
from penstock.part import Part, started
from penstock.postgres.pool import Database
from penstock.processes.garbage import collect_rarely
from penstock.processes.stopping import on_signals
from penstock.providers import job_inputs
from penstock.providers.fetching import Fetcher
from penstock.providers.kinds.model import ModelCaller
from penstock.providers.profile import Catalogue
from penstock.providers.reporter import Reporter
from penstock.providers.servers import Servers
from penstock.settings import Settings
from penstock.telemetry import logs
from penstock.work.executors import Executors
from penstock.workers import http, predict, transcription
from penstock.workers.chat import ChatExecutor
from penstock.workers.gateway_models import GatewayModels
from penstock.workers.hosted_models import HostedModels
from penstock.workers.model_calls import GatewayCaller, HostedCaller
from penstock.workers.transcription import TranscriptionExecutor
from penstock.workers.uploads import UploadLoader
from penstock.workers.worker import Worker

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Models:
    """The models that a worker can call: for predict jobs, and for providers that name one."""

    jobs: predict.Models
    caller: ModelCaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The objects that a worker's process uses besides its settings, one of each."""

    database: Database
    jobs: JobService
    blobs: BlobService
    catalogue: Catalogue
    models: (
        ModelService | None
    )  # its own models; None if PENSTOCK_MODELS_URL names a gateway, or no models are configured
    load_upload: UploadLoader


async def run(settings: Settings, needs: Needs) -> None:
    """Work until SIGTERM or SIGINT, then drain; on a second signal, hand back running jobs at once.

    The worker waits for the database if it is away.
    """
    async with AsyncExitStack() as parts:
        executors = await parts.enter_async_context(_executors(settings, needs))
        await parts.enter_async_context(started([Part(start=needs.jobs.start, stop=needs.jobs.stop)]))
        worker = Worker(
            needs.jobs,
            worker_id=settings.worker_id,
            executors=executors,
            limit=settings.worker_claim_limit,
            lease=settings.worker_lease_timeout,
            poll=settings.worker_poll_interval,
            grace=settings.penstock_shutdown_grace,
            max_result_bytes=settings.penstock_max_result_bytes,
        )
        port = await parts.enter_async_context(
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


@asynccontextmanager
async def _executors(settings: Settings, needs: Needs) -> AsyncIterator[Executors]:
    """Return what this worker can run by its settings: profiles of providers, and models as they come and go."""
    executors = Executors()
    async with AsyncExitStack() as parts:
        catalogue = needs.catalogue
        found = await parts.enter_async_context(_models(settings, needs))
        _require_models(catalogue, found)
        if catalogue.profiles:
            servers = Servers(found.caller if found is not None else None)
            await parts.enter_async_context(_profiles(settings, needs, executors, servers))
        if found is not None:
            offering = asyncio.create_task(predict.offer(found.jobs, executors))
            parts.callback(offering.cancel)
        elif not catalogue.profiles:
            log.warning(
                "nothing_to_run",
                reason="there are no model profiles (LLM_BASE_URL, WHISPERX_URL, profiles.toml), "
                "and neither PENSTOCK_MODELS_DIR nor PENSTOCK_MODELS_URL is set",
            )
        yield executors


def _require_models(catalogue: Catalogue, models: _Models | None) -> None:
    """Raise SettingsError for a provider that is a registered model if this worker cannot call models."""
    registered = [spec for spec in catalogue.providers.values() if spec.kind.registered]
    if models is None and registered:
        detail = "is a registered model, and neither PENSTOCK_MODELS_URL nor PENSTOCK_MODELS_DIR is set"
        raise SettingsError([FieldProblem(field=f"providers.{spec.name}", detail=detail) for spec in registered])


@asynccontextmanager
async def _profiles(settings: Settings, needs: Needs, executors: Executors, servers: Servers) -> AsyncIterator[None]:
    """Return an executor for each profile, and set up reports of the state of its providers."""
    await asyncio.to_thread(transcription.sweep)
    fetcher = Fetcher(settings.penstock_fetch_networks, max_bytes=settings.penstock_max_blob_bytes)
    reporter = Reporter(needs.database, servers, f"{settings.worker_id}/{os.getpid()}")
    reporting = asyncio.create_task(reporter.run())
    for profile in needs.catalogue.profiles.values():
        limit = min(profile.concurrency, settings.worker_claim_limit)
        if profile.transcribes:
            executors.add(
                TranscriptionExecutor(
                    profile,
                    servers,
                    fetcher=fetcher,
                    blobs=needs.blobs,
                    max_result_bytes=settings.penstock_max_result_bytes,
                ),
                task_types=job_inputs.TRANSCRIPTION_TASKS,
                model_profiles=[profile.name],
                limit=limit,
            )
        else:
            executors.add(
                ChatExecutor(profile, servers, max_result_bytes=settings.penstock_max_result_bytes),
                task_types=job_inputs.CHAT_TASKS,
                model_profiles=[profile.name],
                limit=limit,
            )
    try:
        yield
    finally:
        await reporter.stop()
        await reporting
        with suppress(DatabaseUnavailable):
            await reporter.withdraw()
        await servers.close()
        await fetcher.close()


@asynccontextmanager
async def _models(settings: Settings, needs: Needs) -> AsyncIterator[_Models | None]:
    """Return the models that predict jobs and providers run on: those of a gateway, or of this process."""
    url = settings.penstock_models_url
    token = settings.ai_service_token.reveal() if settings.ai_service_token is not None else None
    if url is not None:
        async with Client(url, token=token) as client:
            yield _Models(GatewayModels(client), GatewayCaller(client))
    elif needs.models is not None:
        async with started([Part(start=needs.models.start, stop=needs.models.stop)]):
            yield _Models(HostedModels(needs.models, needs.load_upload), HostedCaller(needs.models, needs.load_upload))
    else:
        yield None
