"""A running ``penstock app serve`` of the app of tests, with a data folder of its own."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from penstock.supervisor.ports import free_port
from tests.support.processes import children, clean_environment, penstock
from tests.support.sounds import write_app
from tests.support.waiting import until

TOKEN = "the-operator's-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response."""

    status: int
    headers: Mapping[str, str]
    json: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSounds:
    """A running app: the ports of its API (``app``) and of its services."""

    process: Process
    log: Path
    ports: Mapping[str, int]
    environment: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {TOKEN}"})

    def url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    async def call(
        self, port: str, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url(port, path), json=body, headers={**self.headers, **(headers or {})}
            ) as response,
        ):
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Reply(
                status=response.status,
                headers=response.headers.copy(),
                json=await response.json(content_type=None) if is_json else text,
            )

    async def get(self, port: str, path: str) -> Reply:
        return await self.call(port, "GET", path)

    async def ready(self) -> bool:
        try:
            replies = [await self.get(name, "/health") for name in self.ports]
        except aiohttp.ClientError:
            return False
        return all(reply.status == 200 and reply.json["status"] == "ok" for reply in replies)

    def parts(self) -> dict[str, int]:
        """Return the ids of the processes below the supervisor, by component, or by part of the app's API."""
        found: dict[str, int] = {}
        for pid, command in children(self.process.pid).items():
            words = command.split()
            if words:
                found["postgres" if "postgres" in words[0] else words[-1]] = pid
        return found


def ports() -> dict[str, int]:
    return {name: free_port() for name in ("app", "audio-gen", "music-gen")}


def port_variables(found: Mapping[str, int]) -> dict[str, str]:
    names = {"app": "APP_API_PORT", "audio-gen": "AUDIO_GEN_PORT", "music-gen": "MUSIC_GEN_PORT"}
    return {names[name]: str(port) for name, port in found.items()}


@asynccontextmanager
async def serving_sounds(folder: Path, **variables: str) -> AsyncIterator[ServedSounds]:
    """Serve all components of the app of tests, and wait until it accepts requests."""
    app = write_app(folder / "apps")
    async with serving_app(app, folder, **variables) as served:
        yield served


@asynccontextmanager
async def serving_app(app: Path, folder: Path, **variables: str) -> AsyncIterator[ServedSounds]:
    """Serve all components of an app with the services audio-gen and music-gen; its data are below ``folder``."""
    found = ports()
    environment = clean_environment(
        PENSTOCK_APPS_DIR=str(app.parent),
        PENSTOCK_DATA_DIR=str(folder / "data"),
        PENSTOCK_SHUTDOWN_GRACE="5s",
        AI_SERVICE_TOKEN=TOKEN,
        HTTP_HOST="127.0.0.1",
        **port_variables(found),
        **variables,
    )
    log = folder / "serve.log"
    async with penstock("app", "serve", app.name, environment=environment, folder=folder, log=log) as process:
        served = ServedSounds(process=process, log=log, ports=found, environment=environment)
        try:
            await until(served.ready, "the app is served", seconds=90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield served
