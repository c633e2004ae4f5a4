"""A gateway in the test's process, and a caller that sends it requests over HTTP."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from penstock.assembly.gateway import GatewayAssembly
from penstock.masking import Secret
from penstock.settings import Settings, load_settings
from penstock.web.limits import Limits
from penstock.web.listening import listeners
from penstock.web.server import Server

SUBMISSION = {"owner_service": "tests", "task_type": "echo", "model_profile": "small"}


_OUTSIDE = (
    "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/nowhere", "/api/", "/get", "/post", "/oauth2/",
    "/v1/", "/athena/try/",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def fields(self) -> list[str]:
        """Return the fields that the problem details name."""
        return [mistake["field"] for mistake in self.json.get("errors", [])]

    @property
    def outcome(self) -> tuple[int, str]:
        """Return a problem's status and code."""
        return (self.status, self.json["code"])


class HttpCaller:
    """Sends requests to one gateway, as any HTTP client does."""

    def __init__(self, session: aiohttp.ClientSession, address: str, parts: GatewayAssembly, server: Server) -> None:
        self.session = session
        self.address = address
        self.parts = parts
        self.gateway = parts.gateway
        self.server = server

    @property
    def in_progress(self) -> list[str]:
        """The paths of the requests in progress."""
        return self.server.in_progress

    async def call(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request: ``value`` as JSON, ``body`` unchanged. Paths may omit ``/api/v1``."""
        url = self.address + (path if path.startswith(_OUTSIDE) or path == "/" else "/api/v1" + path)
        data = msgspec.json.encode(value) if value is not None else body
        sent = {"Content-Type": "application/json"} if data is not None else {}
        content = io.BytesIO(data) if data is not None and len(data) >= 2**20 else data  # aiohttp warns of large bytes
        async with self.session.request(
            method, url, data=content, headers=sent | dict(headers or {}), allow_redirects=False
        ) as response:
            return Reply(status=response.status, headers=response.headers.copy(), body=await response.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.call("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def post(self, path: str, value: Any = None, **headers: str) -> Reply:
        return await self.call("POST", path, value, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job and return it."""
        reply = await self.post("/jobs", SUBMISSION | fields)
        assert reply.status == 201, reply.body
        job: dict[str, Any] = reply.json
        return job

    async def claim(self, **fields: Any) -> list[dict[str, Any]]:
        reply = await self.post("/jobs/claim", {"worker_id": "w", "limit": 1000} | fields)
        assert reply.status == 200, reply.body
        jobs: list[dict[str, Any]] = reply.json["jobs"]
        return jobs

    async def running(self, **fields: Any) -> dict[str, Any]:
        """Submit a job to its own queue, claim it, and return it as its worker received it."""
        job = await self.submit(**fields)
        (claimed,) = await self.claim(task_types=[job["task_type"]])
        assert claimed["id"] == job["id"]
        return claimed

    async def finished(self, **fields: Any) -> dict[str, Any]:
        """Run a job to completion and return it."""
        job = await self.running(**fields)
        reply = await self.post(f"/jobs/{job['id']}/complete", {"epoch": job["epoch"], "result": 42})
        assert reply.status == 200, reply.body
        return job


INSTANCE_SECRET = Secret("A" * 43)
_calls = tempfile.TemporaryDirectory(prefix="penstock-tests-calls-")  # removed when the tests end


def settings_for(url: str, **changes: Any) -> Settings:
    """Return settings for that database. The secret, the store of files and the folder for files of calls are stated,
    so that no file is written elsewhere."""
    stated = {
        "penstock_secret_key": INSTANCE_SECRET,
        "penstock_blob_url": "postgres",
        "penstock_call_folder": Path(_calls.name),
    } | changes
    return load_settings(None).replace(database_url=Secret(url), **stated)


@asynccontextmanager
async def running_gateway(
    url: str, *, models_folder: Path | None = None, limits: Limits | None = None, **changes: Any
) -> AsyncIterator[HttpCaller]:
    """Run a gateway on that database, in this process, with changed settings; stop it as SIGTERM does."""
    parts = GatewayAssembly(settings_for(url, **changes).replace(penstock_models_dir=models_folder))
    async with serving(parts, limits=limits) as caller:
        yield caller


@asynccontextmanager
async def serving(parts: GatewayAssembly, *, limits: Limits | None = None) -> AsyncIterator[HttpCaller]:
    """Run a gateway with these parts on a free port, in this process; stop it as SIGTERM does."""
    settings, gateway = parts.settings, parts.gateway
    server = Server(gateway.application, limits=limits, stopping=gateway.stopping)
    await gateway.start()
    (listener,) = listeners("127.0.0.1", 0, "HTTP_PORT")
    port = listener.getsockname()[1]
    await server.start([listener])
    token = settings.ai_service_token
    headers = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield HttpCaller(session, f"http://127.0.0.1:{port}", parts, server)
    finally:
        await server.stop(settings.penstock_shutdown_grace)
        await gateway.stop()
        await parts.close()
