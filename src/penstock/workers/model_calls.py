"""Calls of registered models on behalf of providers: models of this process, or of a gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from penstock.client import Client
from penstock.errors import PenstockError
from penstock.failures import CallFailed, Category, failure_of
from penstock.models.host.calls import CallResult
from penstock.models.host.deployment import Deployment
from penstock.models.inputs import Input, from_json
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment
from penstock.models.service import ModelService
from penstock.providers.kinds.model import OnChunk

_UPLOAD: Final = re.compile(rb'"blob:[0-9a-f-]{36}"', re.IGNORECASE)


class HostedCaller:
    """The models that this process hosts."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def call(self, name: str, request: bytes, *, request_id: str, on_chunk: OnChunk | None = None) -> bytes:
        """Return a model's output as JSON. Raises CallFailed."""
        try:
            deployment = self._service.find(name)
            if deployment.schema is None:
                await deployment.describe()
            given = await from_json(request, deployment)
            if on_chunk is None:
                found = await self._predicted(deployment, given, request_id)
            else:
                found = await self._streamed(deployment, given, request_id, on_chunk)
        except PenstockError as error:
            raise _failure(error) from error
        return inlined(found.json, found.segments)

    async def _predicted(self, deployment: Deployment, given: Input, request_id: str) -> CallResult:
        live = self._service.host.call(deployment, given.json, given.segments, request_id=request_id)
        try:
            return await live.done
        finally:
            live.close()

    async def _streamed(self, deployment: Deployment, given: Input, request_id: str, on_chunk: OnChunk) -> CallResult:
        chunks = _Chunks()
        live = self._service.host.call(
            deployment,
            given.json,
            given.segments,
            request_id=request_id,
            streams=True,
            collects=True,
            listener=chunks,
        )
        live.done.add_done_callback(lambda _: chunks.queue.put_nowait(None))
        try:
            while (chunk := await chunks.queue.get()) is not None:
                await on_chunk(chunk)
                if chunks.queue.empty():
                    live.consume(live.unread)
            return await live.done
        finally:
            live.close()


class _Chunks:
    """Queues the chunks of a call; the call's window bounds the queued bytes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self.queue.put_nowait(inlined(json, segments))

    def progress(self, json: bytes) -> None:
        """Ignore it: the progress of a provider is its text."""

    def log(self, level: str, message: str) -> None:
        """Ignore it: the model's own log has the line."""


class GatewayCaller:
    """The models of a gateway, which are called as the operator: inputs cannot name uploads, as in ``HostedCaller``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, name: str, request: bytes, *, request_id: str, on_chunk: OnChunk | None = None) -> bytes:
        """Return a model's output as JSON. Raises CallFailed."""
        if _UPLOAD.search(request):
            raise CallFailed(Category.BAD_INPUT, "the inputs of models that serve as providers cannot name uploads")
        try:
            if on_chunk is None:
                return _encoded(await self._client.predict(name, Raw(request), request_id=request_id))
            return await self._streamed(name, request, request_id, on_chunk)
        except PenstockError as error:
            raise _failure(error) from error

    async def _streamed(self, name: str, request: bytes, request_id: str, on_chunk: OnChunk) -> bytes:
        chunks: list[bytes] = []
        async for event in self._client.stream(name, Raw(request), request_id=request_id):
            if event.type == "chunk":
                chunks.append(msgspec.json.encode(event.data))
                await on_chunk(chunks[-1])
            elif event.type == "done" and "output" in event.data:
                return msgspec.json.encode(event.data["output"])
        return b"[" + b",".join(chunks) + b"]"


def _encoded(output: object) -> bytes:
    try:
        return msgspec.json.encode(output)
    except TypeError:  # one piece of media, which models used as providers do not return
        raise CallFailed(Category.PROVIDER_ERROR, "the model's output is not JSON") from None


def _failure(error: PenstockError) -> CallFailed:
    """Convert an error of a model's call to the failure of the provider that it serves as."""
    failure = failure_of(error, where="")
    match failure.category:
        case Category.BAD_INPUT:
            return CallFailed(Category.BAD_INPUT, f"the model refuses the input ({failure})")
        case Category.INTERNAL | Category.UNAVAILABLE:
            return CallFailed(Category.PROVIDER_ERROR, failure.message)
    return failure
