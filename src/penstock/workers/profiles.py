"""What a worker runs for model profiles: an executor for each, and reports of the state of its providers."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from penstock.blobs.service import BlobService
from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.providers import job_inputs
from penstock.providers.fetching import Fetcher
from penstock.providers.kinds.model import ModelCaller
from penstock.providers.profile import Catalogue, Profile
from penstock.providers.reporter import Reporter
from penstock.providers.servers import Servers
from penstock.settings import Settings
from penstock.work.executor import Executor
from penstock.work.executors import Offer
from penstock.workers import transcription
from penstock.workers.chat import ChatExecutor
from penstock.workers.part import WorkerPart
from penstock.workers.transcription import TranscriptionExecutor


def part(
    catalogue: Catalogue, settings: Settings, *, database: Database, blobs: BlobService, models: ModelCaller | None
) -> WorkerPart:
    """Return the executors of all profiles; ``models`` calls the registered models among the providers."""
    if not catalogue.profiles:
        return WorkerPart()
    profiles = _Profiles(settings, database, blobs, models)
    return WorkerPart(
        start=profiles.start,
        stop=profiles.stop,
        executors=[profiles.offer(profile) for profile in catalogue.profiles.values()],
    )


class _Profiles:
    """The connections that the executors of all profiles share."""

    def __init__(self, settings: Settings, database: Database, blobs: BlobService, models: ModelCaller | None) -> None:
        self._settings = settings
        self._blobs = blobs
        self._servers = Servers(models)
        self._fetcher = Fetcher(settings.penstock_fetch_networks, max_bytes=settings.penstock_max_blob_bytes)
        self._reporter = Reporter(database, self._servers, f"{settings.worker_id}/{os.getpid()}")
        self._reporting: asyncio.Task[None] | None = None

    def offer(self, profile: Profile) -> Offer:
        """Return the executor of a profile, with its queues."""
        return Offer(
            executor=self._transcribing(profile) if profile.transcribes else self._chatting(profile),
            task_types=job_inputs.TRANSCRIPTION_TASKS if profile.transcribes else job_inputs.CHAT_TASKS,
            model_profiles=(profile.name,),
            limit=min(profile.concurrency, self._settings.worker_claim_limit),
        )

    def _chatting(self, profile: Profile) -> Executor:
        return ChatExecutor(profile, self._servers, max_result_bytes=self._settings.penstock_max_result_bytes)

    def _transcribing(self, profile: Profile) -> Executor:
        return TranscriptionExecutor(
            profile,
            self._servers,
            fetcher=self._fetcher,
            blobs=self._blobs,
            max_result_bytes=self._settings.penstock_max_result_bytes,
        )

    async def start(self) -> None:
        await asyncio.to_thread(transcription.sweep)
        self._reporting = asyncio.create_task(self._reporter.run())

    async def stop(self) -> None:
        """Withdraw the reports and close all connections; nothing happens to what was not started."""
        await self._reporter.stop()
        if self._reporting is not None:
            await self._reporting
        with suppress(DatabaseUnavailable):
            await self._reporter.withdraw()
        await self._servers.close()
        await self._fetcher.close()
