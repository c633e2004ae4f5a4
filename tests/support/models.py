"""A model host with real replicas, and models that a test writes into a folder."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from penstock.models import manifest
from penstock.models.host.calls import CallResult, Listener, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.host.logbook import LogEntry, Wanted
from penstock.models.host.sessions import LiveSession
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Segment
from penstock.tenants.principal import DEFAULT_TENANT, TenantId


class Models:
    """A host, and a folder for the models of one test."""

    def __init__(self, host: ModelHost, folder: Path) -> None:
        self.host = host
        self.folder = folder

    def python(self, name: str, code: str, **stated: Any) -> Model:
        """Return a python model, whose class is called Model; ``stated`` goes into its manifest."""
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        (folder / "model.py").write_text(textwrap.dedent(code))
        options = {"class": "model:Model"} | stated.pop("python", {})
        return self.model(name, "python", options, folder=folder, **stated)

    def model(
        self, name: str, runtime: str, options: dict[str, Any], *, folder: Path | None = None, **stated: Any
    ) -> Model:
        """Return a model of any runtime."""
        whole = {"name": name, "runtime": runtime, runtime: options} | stated
        return manifest.check(whole, folder=folder or self.folder, source="folder")

    async def serve(self, name: str, code: str, **stated: Any) -> Deployment:
        """Register a python model."""
        return await self.host.add(self.python(name, code, **stated))

    async def call(self, deployment: Deployment, value: Any, **options: Any) -> Any:
        """Run a call and return its output."""
        return read(await self.begin(deployment, value, **options).done)

    def begin(
        self,
        deployment: Deployment,
        value: Any,
        segments: Sequence[Segment] = (),
        *,
        request_id: str = "",
        streams: bool = False,
        listener: Listener | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> LiveCall:
        """Begin a call; its input is checked as in a gateway."""
        deployment.checker.check(value)
        body = msgspec.json.encode(value)
        return self.host.call(
            deployment, body, segments, request_id=request_id, streams=streams, listener=listener, tenant=tenant
        )

    def session(
        self,
        deployment: Deployment,
        value: Any,
        segments: Sequence[Segment] = (),
        *,
        request_id: str = "",
        listener: Listener | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> LiveSession:
        """Begin a session."""
        body = msgspec.json.encode(value)
        return self.host.session(deployment, body, segments, request_id=request_id, listener=listener, tenant=tenant)

    def lines(self, deployment: Deployment, **wanted: Any) -> list[LogEntry]:
        return deployment.logbook.newest(Wanted(**wanted), 10_000)


def read(result: CallResult) -> Any:
    """Return a result's JSON as a value."""
    return msgspec.json.decode(result.json)


class Recorder:
    """A listener that keeps what it receives; ``chunk_came`` is set by the first chunk."""

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.progressed: list[Any] = []
        self.lines: list[str] = []
        self.chunk_came = asyncio.Event()
        self.something_came = asyncio.Event()

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self.chunks.append(msgspec.json.decode(json))
        self.chunk_came.set()
        self.something_came.set()

    def progress(self, json: bytes) -> None:
        self.progressed.append(msgspec.json.decode(json))
        self.something_came.set()

    def log(self, level: str, message: str) -> None:
        self.lines.append(message)
        self.something_came.set()


@asynccontextmanager
async def model_host(folder: Path, **options: Any) -> AsyncIterator[Models]:
    """Run a model host; all replicas have ended when the block ends."""
    host = ModelHost(**options)
    await host.start()
    try:
        yield Models(host, folder)
    finally:
        await host.stop()
