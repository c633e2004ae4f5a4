"""Sessions of models: what a part costs beside a call, and the memory of a thousand sessions at once."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.figures import Figure
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.host.sessions import LiveSession
from penstock.models.replica.runtime import Segment
from penstock.postgres.embedded import EmbeddedServer

SESSIONS = 1000
ROUNDS = 5  # one more before them warms up
_PARTS = 3000
_TEXT = b'"a penstock feeds a turbine"'
_CODE = """
from collections.abc import AsyncIterator, Iterator

class Blocking:
    def predict(self, text: str) -> str:
        return text

    def session(self, parts: Iterator[str]) -> Iterator[str]:
        yield from parts

class Async:
    async def predict(self, text: str) -> str:
        return text

    async def session(self, parts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for part in parts:
            yield part
"""


class Echo:
    """A listener that reads each chunk as it comes, and resolves ``came``."""

    session: LiveSession

    def __init__(self) -> None:
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:  # noqa: ARG002 - only its arrival counts
        self.session.consume(self.session.unread)
        self.came.set_result(None)

    def progress(self, json: bytes) -> None: ...
    def log(self, level: str, message: str) -> None: ...

    async def exchange(self) -> None:
        """Send a part and wait for its chunk."""
        self.came = asyncio.get_running_loop().create_future()
        await self.session.send(_TEXT)
        await self.came


async def run(_server: EmbeddedServer) -> list[Figure]:
    """Measure both kinds of models. They need no database."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "echo.py").write_text(_CODE)
        host = ModelHost()
        await host.start()
        try:
            blocking = await _model(host, folder, "Blocking", concurrency=1)
            parallel = await _model(host, folder, "Async", concurrency=SESSIONS)
            memory = await _memory(host, parallel)  # first: later, memory that calls have left would be used again
            return [*await _compare(host, blocking), *await _compare(host, parallel), *memory]
        finally:
            await host.stop()


async def _model(host: ModelHost, folder: str, kind: str, *, concurrency: int) -> Deployment:
    stated = {"name": kind, "runtime": "python", "python": {"class": f"echo:{kind}"}, "concurrency": concurrency}
    model = await host.add(manifest.check(stated, folder=Path(folder), source="folder"))
    await model.load()
    return model


async def _compare(host: ModelHost, model: Deployment) -> list[Figure]:
    """Compare the CPU time of a part with that of a call, and the times until the chunk and the result."""
    parts, calls = [], []
    for _ in range(ROUNDS + 1):
        calls.append(await _cost(model, lambda: _calls(host, model)))
        parts.append(await _cost(model, lambda: _parts(host, model)))
    ratio = statistics.median(part.cpu / call.cpu for part, call in zip(parts[1:], calls[1:], strict=True))
    microseconds = 1e6 * statistics.median(part.cpu for part in parts[1:])
    wall = 1e6 * statistics.median(part.wall for part in parts[1:])
    kind = model.model.name.lower()
    return [
        Figure(
            scenario=f"{kind} model: CPU time of a part and its chunk, of a call's",
            value=ratio,
            unit="times",
            promise=1.0,
            at_most=True,
            note=f"{microseconds:.0f} µs",
            group="sessions",
        ),
        Figure(scenario=f"{kind} model: part in, chunk out", value=wall, unit="µs", group="sessions"),
    ]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one exchange took."""

    cpu: float  # of host and replica
    wall: float


async def _cost(model: Deployment, work: Callable[[], Awaitable[None]]) -> Cost:
    replica = psutil.Process(model.replicas[0].pid)
    cpu, wall = _seconds(replica), time.perf_counter()
    await work()
    return Cost((_seconds(replica) - cpu) / _PARTS, (time.perf_counter() - wall) / _PARTS)


def _seconds(replica: psutil.Process) -> float:
    times = replica.cpu_times()
    return time.process_time() + times.user + times.system


async def _calls(host: ModelHost, model: Deployment) -> None:
    for _ in range(_PARTS):
        await host.call(model, b'{"text":' + _TEXT + b"}").done


async def _parts(host: ModelHost, model: Deployment, count: int = _PARTS) -> None:
    echo = _open(host, model)
    for _ in range(count):
        await echo.exchange()
    echo.session.close()


async def _memory(host: ModelHost, model: Deployment) -> list[Figure]:
    """Measure the resident memory of open sessions in the host and in the replica, after each has exchanged parts."""
    processes = [psutil.Process(), psutil.Process(model.replicas[0].pid)]
    await _parts(host, model, count=10)
    before = await _resident(processes)
    sessions = [_open(host, model) for _ in range(SESSIONS)]
    for _ in range(5):
        await asyncio.gather(*(echo.exchange() for echo in sessions))
    used = [after - earlier for after, earlier in zip(await _resident(processes), before, strict=True)]
    for echo in sessions:
        echo.session.close()
    return [
        Figure(
            scenario=f"memory of one of {SESSIONS:,} sessions in the {name}",
            value=size / SESSIONS / 2**10,
            unit="KiB",
            promise=50 if name == "host" else None,
            at_most=True,
            group="sessions",
        )
        for name, size in zip(("host", "replica"), used, strict=True)
    ]


async def _resident(processes: Sequence[psutil.Process]) -> list[int]:
    gc.collect()
    return [process.memory_info().rss for process in processes]


def _open(host: ModelHost, model: Deployment) -> Echo:
    echo = Echo()
    echo.session = host.session(model, b"{}", listener=echo)
    return echo
