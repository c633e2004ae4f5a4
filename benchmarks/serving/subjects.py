"""The measured servers: Penstock, its rivals in their own environments, and a bare upload as the limit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from benchmarks import environments
from penstock.supervisor.ports import free_port

HERE = Path(__file__).parent
TOKEN = "a-token-of-the-benchmark"
_START_SECONDS = 90.0

PACKAGES = {  # pinned, because versions differ more than machines do
    "fastapi": (
        "fastapi==0.165.0",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
        "httptools==0.9.0",
        "prometheus-client==0.26.0",
        "python-multipart==0.0.34",
    ),
    "litserve": ("litserve==0.2.19", "uvloop==0.23.0", "httptools==0.9.0", "python-multipart==0.0.34"),
    "bentoml": ("bentoml==1.4.39", "uvloop==0.23.0", "httptools==0.9.0"),
    "mosec": ("mosec==0.9.8", "msgspec==0.22.0"),
}
LEFT_OUT = {
    "fastapi": {"batch": "has no batching"},
    "litserve": {"raw": "takes JSON and forms only"},
    "mosec": {"blob": "reads no forms"},
}
UNEQUAL = {
    "fastapi": "the model runs in the server's own process",
    "litserve": "no metrics",
    "bentoml": "the model runs in the server's own process",
    "mosec": "no token check",
}


@dataclass(slots=True)
class Subject:
    """A running server."""

    name: str
    port: int
    pid: int
    label: str  # the name and the version
    paths: Mapping[str, str]  # by scenario; scenarios that the server does not support are absent
    headers: Mapping[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        total = 0.0
        for process in self._family():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.Error:
            return []


def prepare(name: str) -> str | None:
    """Make a rival's environment unless it exists; return why that failed, or None."""
    return environments.prepare(name, PACKAGES[name])


def label(name: str) -> str:
    """Return the rival's name with its version."""
    return environments.label(PACKAGES[name][0])


@asynccontextmanager
async def penstock(folder: Path) -> AsyncIterator[Subject]:
    """Run Penstock with the models beside this file, a token and metrics."""
    port = free_port()
    variables = {
        "PENSTOCK_DATA_DIR": str(folder / "data"),
        "PENSTOCK_MODELS_DIR": str(HERE / "models"),
        "PENSTOCK_WORKERS": "0",
        "PENSTOCK_LOG_LEVEL": "warning",
        "AI_SERVICE_TOKEN": TOKEN,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
    }
    paths = {name: f"/api/v1/models/{name}/predict" for name in ("echo", "batch", "blob")}
    paths |= {"count": "/api/v1/models/count/stream", "raw": paths["blob"]}
    command = [sys.executable, "-m", "penstock", "serve"]
    async with _server("penstock", command, variables, port, paths, {"Authorization": f"Bearer {TOKEN}"}) as subject:
        yield subject


@asynccontextmanager
async def rival(name: str) -> AsyncIterator[Subject]:
    """Run a rival whose environment has been prepared."""
    port = free_port()
    programs = environments.ENVIRONMENTS / name / "bin"
    left_out = LEFT_OUT.get(name, {})
    paths = {one: f"/{one}" for one in ("echo", "batch", "count", "blob", "raw") if one not in left_out}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    command = [str(programs / "python"), f"{name}_app.py"]
    match name:
        case "litserve":
            headers = {"X-API-Key": TOKEN}
        case "bentoml":
            command = [str(programs / "bentoml"), "serve", "bentoml_app:Bench", "--port", str(port)]
        case "mosec":
            command += ["--port", str(port), "--timeout", "60000"]
    variables = {
        "PORT": str(port),
        "TOKEN": TOKEN,
        "LIT_SERVER_API_KEY": TOKEN,
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    variables |= {"BENTOML_DO_NOT_TRACK": "true", "LITSERVE_DISABLE_TELEMETRY": "1"}
    async with _server(name, command, variables, port, paths, headers) as subject:
        yield subject


@asynccontextmanager
async def bare() -> AsyncIterator[Subject]:
    """Run a bare upload handler on uvicorn, in FastAPI's environment: the limit for any ASGI service with uploads."""
    port = free_port()
    command = [str(environments.ENVIRONMENTS / "fastapi" / "bin" / "python"), "bare_app.py"]
    async with _server("bare upload", command, {"PORT": str(port)}, port, {"blob": "/", "raw": "/"}, {}) as subject:
        yield subject


@asynccontextmanager
async def _server(
    name: str,
    command: list[str],
    variables: Mapping[str, str],
    port: int,
    paths: Mapping[str, str],
    headers: Mapping[str, str],
) -> AsyncIterator[Subject]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=HERE / "rivals" if name != "penstock" else HERE.parents[1],
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        subject = Subject(name, port, process.pid, label(name) if name in PACKAGES else name, paths, headers)
        await _until_ready(subject, process)
        yield subject
    finally:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a server may leave processes behind
        await process.wait()


async def _until_ready(subject: Subject, process: asyncio.subprocess.Process) -> None:
    path = subject.paths.get("echo", "/")
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with aiohttp.ClientSession(headers=dict(subject.headers)) as session:
        while True:
            try:
                url = f"http://127.0.0.1:{subject.port}{path}"
                async with session.post(url, json={"text": "x", "n": 1}) as reply:
                    if reply.status == 200:
                        return
            except (aiohttp.ClientError, OSError):
                pass
            if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"{subject.name} is not ready")
            await asyncio.sleep(0.2)
