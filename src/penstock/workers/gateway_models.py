"""Run predict jobs on the models of a gateway."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from msgspec import Raw, Struct

from penstock.client import Client
from penstock.errors import ModelCrashed, ModelFailed, ModelTimeout, PenstockError, ProviderFailed
from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimedJob
from penstock.telemetry import logs
from penstock.work.context import JobContext
from penstock.workers.predict import Served, failure_of_job, request_id

log = logs.get(__name__)

_OF_THE_MODEL: Final = (ModelFailed, ModelCrashed, ModelTimeout, ProviderFailed)  # errors of calls that had begun
_POLL_SECONDS: Final = 2.0  # between polls of the gateway's list of models


class GatewayModels:
    """The models of a gateway, called by a client. While it is unavailable, jobs wait without losing attempts.

    All readers of ``names`` share the polls of the gateway.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: Mapping[str, Served] | None = None
        self._poll_at = -math.inf  # time of the event loop
        self._polling = asyncio.Lock()

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        clock = asyncio.get_running_loop().time
        known: Mapping[str, Served] | None = None
        while True:
            async with self._polling:
                if clock() >= self._poll_at:
                    await self._poll()
                    self._poll_at = clock() + _POLL_SECONDS
            if self._known is not None and self._known != known:
                known = self._known
                yield known
            await asyncio.sleep(self._poll_at - clock())

    async def _poll(self) -> None:
        """Read the models; keep those that are known while the gateway is unavailable."""
        try:
            found: dict[str, Served] = {}
            for model in (await self._client.models(all_tenants=True))["models"]:
                tenants = [model["tenant"]] if model["tenant"] is not None else model["tenants"]
                found[model["name"]] = found.get(model["name"], Served()).with_model(model["places"], tenants)
        except PenstockError as error:
            log.debug("models_not_listed", reason=error.code)
        else:
            self._known = found

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        call = self._client.for_tenant(job.tenant).stream_json(name, job.input, request_id=request_id(job), logs=True)
        chunks: list[bytes] = []
        try:
            async with aclosing(call):
                async for kind, data in call:
                    if kind == "done":
                        done = msgspec.json.decode(data, type=dict[str, Raw])
                        context.used(_use_of(name, data))
                        return bytes(done["output"]) if "output" in done else b"[" + b",".join(chunks) + b"]"
                    if kind == "chunk":
                        chunks.append(data)
                    await _report(kind, data, context)
        except PenstockError as error:
            if isinstance(error, _OF_THE_MODEL):
                context.used(Usage(model=name, status="failed"))
            raise failure_of_job(error) from error
        raise AssertionError("a stream ends with a done event or raises")


class _Done(Struct):
    """The facts of a ``done`` event."""

    version: str = ""
    model_seconds: float = 0.0


def _use_of(name: str, done: bytes) -> Usage:
    """Return the usage of the call for the job's attempt, because the gateway does not account it."""
    facts = msgspec.json.decode(done, type=_Done)
    micros = round(1e6 * facts.model_seconds)
    return Usage(model=name, version=facts.version, duration_ms=micros // 1000, duration_us=micros)


async def _report(kind: str, data: bytes, context: JobContext) -> None:
    """Report an event of the call as an event of the job."""
    match kind:
        case "chunk":
            try:
                context.chunk(Raw(data))
            except ValueError as error:
                context.log(f"a chunk is only in the result: {error}", "warning")
            await context.room()
        case "progress":
            with suppress(ValueError):
                context.progress(Raw(data))
        case "log":
            line = msgspec.json.decode(data)
            context.log(line["message"], line["level"])
