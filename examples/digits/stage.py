"""The stage of the demonstration: Penstock with a fresh data folder, workers as processes, and a complete cleanup."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from penstock import Client, PenstockError
from penstock.supervisor.ports import free_port

LEASE_SECONDS = 3.0  # short, so that the jobs of a dead worker are retried soon
_START = 40.0  # seconds for Penstock, or for a worker, to start
_STOP = 20.0
_ROOT = Path(__file__).parents[2]
_INHERITED = ("PATH", "HOME", "LANG", "PYTHONPATH", "XDG_CACHE_HOME")


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """A running worker."""

    worker_id: str
    process: Process


class Stage:
    """Starts everything on entry, stops and removes everything on exit; ``complaints`` says what did not stop well.

    ``environment`` is added to that of all processes; ``models`` names examples that are served.
    """

    def __init__(self, *, models: Sequence[str] = (), **environment: str) -> None:
        self._models = models
        self._environment = environment
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.start_seconds = 0.0
        self.complaints: list[str] = []
        self._log_path = self.folder / "demo.log"
        self._log = self._log_path.open("wb")
        self._server: Process | None = None
        self._workers: list[WorkerProcess] = []

    async def __aenter__(self) -> Self:
        (self.folder / "models").mkdir()
        for name in self._models:
            (self.folder / "models" / name).symlink_to(_ROOT / "examples" / "models" / name)
        self.folder.chmod(0o755)  # as root, PostgreSQL runs as a separate user, which must be able to enter the folder
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def start_worker(self, worker_id: str) -> WorkerProcess:
        """Return a worker that hosts the model itself, in a process of its own."""
        process = await self._run(
            "-m",
            "penstock",
            "worker",
            WORKER_ID=worker_id,
            WORKER_HTTP_PORT="0",
            WORKER_LEASE_TIMEOUT=f"{LEASE_SECONDS:g}s",
            WORKER_CLAIM_LIMIT="64",  # the model batches
            WORKER_POLL_INTERVAL="200ms",
        )
        worker = WorkerProcess(worker_id=worker_id, process=process)
        self._workers.append(worker)
        return worker

    def freeze(self, worker: WorkerProcess) -> None:
        """Send SIGSTOP: the worker freezes and keeps its jobs."""
        worker.process.send_signal(signal.SIGSTOP)

    def thaw(self, worker: WorkerProcess) -> None:
        """Send SIGCONT: a frozen worker continues."""
        if worker.process.returncode is None:
            worker.process.send_signal(signal.SIGCONT)

    async def kill(self, worker: WorkerProcess) -> None:
        """Send SIGKILL: the worker ends without any cleanup."""
        worker.process.kill()
        await worker.process.wait()
        self._workers.remove(worker)

    async def until_ready(self, workers: Sequence[WorkerProcess]) -> None:
        """Return when every worker has logged that it takes jobs."""
        begun = time.perf_counter()
        while not all(f'"worker_id":"{worker.worker_id}"' in self._output() for worker in workers):
            late = time.perf_counter() - begun > _START
            if late or any(worker.process.returncode is not None for worker in workers):
                raise SystemExit(f"A worker did not start:\n{self._output()[-4000:]}")
            await asyncio.sleep(0.05)

    async def _start(self) -> None:
        begun = time.perf_counter()
        self._server = await self._run(
            "-m",
            "penstock",
            "serve",
            HTTP_HOST="127.0.0.1",
            HTTP_PORT=self.url.rpartition(":")[2],
        )
        await self._until_ready(begun)
        self.start_seconds = time.perf_counter() - begun

    async def _until_ready(self, begun: float) -> None:
        async with Client(self.url, token=self.token) as client:
            while time.perf_counter() - begun < _START and self._server and self._server.returncode is None:
                try:
                    await client.stats()
                except PenstockError:
                    await asyncio.sleep(0.05)
                else:
                    return
        raise SystemExit(f"Penstock did not start:\n{self._output()[-4000:]}")

    async def _run(self, *arguments: str, **environment: str) -> Process:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        ours = {
            "AI_SERVICE_TOKEN": self.token,
            "PENSTOCK_DATA_DIR": str(self.folder / "data"),
            "PENSTOCK_MODELS_DIR": str(self.folder / "models"),
            "PENSTOCK_LOG_FORMAT": "json",
            "PENSTOCK_WORKERS": "0",
            **self._environment,
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=_ROOT,
            env=inherited | ours | environment,
            stdin=DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches the demonstration only, which then stops everything in order
        )

    async def _stop(self) -> None:
        for worker in self._workers:
            self.thaw(worker)
            await self._end(worker.process, worker.worker_id)
        if self._server is not None:
            await self._end(self._server, "penstock serve")
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            self.complaints.append(f"{self.folder} could not be removed")

    async def _end(self, process: Process, name: str) -> None:
        """Send SIGTERM, and SIGKILL to processes that do not end."""
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(process.wait(), _STOP)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            status = await process.wait()
        if status != 0:
            self.complaints.append(f"{name} ended with status {status}")

    def _output(self) -> str:
        return self._log_path.read_text(errors="replace")
