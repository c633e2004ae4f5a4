"""Run predict jobs on the models of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from msgspec import Raw

from penstock.blobs.uploads import Uploads
from penstock.errors import PenstockError
from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimedJob
from penstock.models.accounting import use_of
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.inputs import from_json
from penstock.models.reader import Reader
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment
from penstock.models.result_files import ForJob, ResultFiles
from penstock.models.service import ModelService
from penstock.work.context import JobContext
from penstock.workers.predict import Served, failure_of_job, request_id


class HostedModels:
    """The models of this process."""

    def __init__(self, service: ModelService, uploads: Uploads) -> None:
        self._service = service
        self._host = service.host
        self._uploads = uploads
        self._files = ResultFiles(blobs=uploads.blobs)

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        while True:
            seen = self._host.changes.count
            found: dict[str, Served] = {}
            for entry in self._host.entries.values():
                newest = entry.versions[entry.default]
                tenants = [entry.owner] if entry.owner is not None else newest.model.manifest.tenants
                found[entry.name] = found.get(entry.name, Served()).with_model(newest.places, tenants)
            yield found
            await self._host.changes.after(seen)

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        listener = _Listener(context)
        try:
            deployment = self._service.find(name, reader=Reader(tenant=job.tenant))
            if deployment.schema is None:
                await deployment.describe()
            given = await from_json(bytes(job.input), deployment, self._uploads.of(context.tenant))
            listener.call = live = self._host.call(
                deployment,
                given.json,
                given.segments,
                request_id=request_id(job),
                streams=True,
                collects=True,
                listener=listener,
                tenant=context.tenant,
            )
            try:
                done = await live.done
            finally:
                live.close()
                _report_use(context, deployment, live)
            kept = await self._files.kept(done, context.tenant, ForJob(job=str(job.id), epoch=job.epoch))
            return inlined(kept.json, kept.segments)
        except PenstockError as error:
            raise failure_of_job(error) from error
        finally:
            listener.close()


def _report_use(context: JobContext, deployment: Deployment, call: LiveCall) -> None:
    """Report the call with the job's attempt, whatever its outcome."""
    used = use_of(call, deployment)
    if used is not None:
        context.used(
            Usage(
                model=deployment.model.name,
                version=used.version,
                status="completed" if used.completed else "failed" if used.failed else "cancelled",
                prompt_tokens=used.prompt_tokens,
                completion_tokens=used.completion_tokens,
                duration_ms=used.model_us // 1000,
                duration_us=used.model_us,
            )
        )


class _Listener:
    """Reports a call's events as events of its job, and slows the model down while too much output is unsent."""

    def __init__(self, context: JobContext) -> None:
        self.call: LiveCall | None = None
        self._context = context
        self._holding: asyncio.Task[None] | None = None

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        try:
            self._context.chunk(Raw(inlined(json, segments)))
        except ValueError as error:  # the chunk is too large for an event, but the result has it
            self._context.log(f"a chunk is only in the result: {error}", "warning")
        if self.call is None or self._holding is not None:
            return
        if self._context.crowded:
            self._holding = asyncio.get_running_loop().create_task(self._hold(self.call))
        else:
            self.call.consume(self.call.unread)

    def progress(self, json: bytes) -> None:
        with suppress(ValueError):
            self._context.progress(Raw(json))

    def log(self, level: str, message: str) -> None:
        self._context.log(message, level)

    def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    async def _hold(self, call: LiveCall) -> None:
        await self._context.room()
        self._holding = None
        call.consume(call.unread)
