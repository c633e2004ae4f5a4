"""Sessions over WebSocket: what they add to a model's own session call, and the memory of a thousand of them."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.figures import Figure, Spread
from benchmarks.ground import fresh_database, process, until_ready
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Segment
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

SESSIONS = 1000  # at the same time
_ROUNDS = 12
_FRAMES = 200  # of one session in a round
_AUDIO = bytes(range(256)) * 12 + b"\0" * 128  # 3,200 bytes: a tenth of a second at 16 kHz
_MODEL = """
from collections.abc import AsyncIterator
from penstock import Audio

class Model:
    async def predict(self, audio: Audio) -> int:
        return len(audio.data)

    async def session(self, parts: AsyncIterator[Audio]) -> AsyncIterator[int]:
        async for part in parts:
            yield len(part.data)
"""
_STATED = {
    "name": "length",
    "runtime": "python",
    "concurrency": SESSIONS + 100,
    "eager": True,
    "timeout": "10m",
    "python": {"class": "length:Model"},
}


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure both by turns in one run, then open the sessions."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        Path(folder).chmod(0o711)
        model = _write(Path(folder))
        async with fresh_database(server) as url, _gateway(url, folder) as (address, pid):
            figures = await _latency(model, address, pid)
            figures += await _memory(address, pid)
    return figures


def _write(folder: Path) -> Model:
    (folder / "length.py").write_text(_MODEL)
    model = manifest.check(dict(_STATED), folder=folder, source="folder")
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in _STATED.items() if key != "python"]
    (folder / "length.toml").write_text("\n".join([*lines, "[python]", 'class = "length:Model"', ""]))
    return model


@asynccontextmanager
async def _gateway(url: str, folder: str) -> AsyncIterator[tuple[str, int]]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "DATABASE_URL": url,
        "HTTP_PORT": str(port),
        "HTTP_HOST": "127.0.0.1",
        "PENSTOCK_MODELS_DIR": folder,
        "PENSTOCK_DATA_DIR": f"{folder}/data",
        "PENSTOCK_ATHENA_SESSION_TIMEOUT": "1h",
        "PENSTOCK_ATHENA_READ_TIMEOUT": "1h",
    }
    async with process("-m", "penstock", "gateway", **environment) as child:
        await until_ready(address)
        yield address, child.pid


# Latency


async def _latency(model: Model, address: str, pid: int) -> list[Figure]:
    host = ModelHost()
    await host.start()
    try:
        deployment = await host.add(model)
        await _direct(host, deployment)
        await _over_websocket(address)  # warms up
        direct, streamed = list[float](), list[float]()
        before = _cpu_seconds(pid)
        for _ in range(_ROUNDS):
            direct += await _direct(host, deployment)
            streamed += await _over_websocket(address)
        cpu = (_cpu_seconds(pid) - before) / (_ROUNDS * _FRAMES)
    finally:
        await host.stop()
    own, whole = Spread.of(direct), Spread.of(streamed)
    return [
        _figure("part in, chunk out, the model's own session call, p50", own.p50, "ms", note=f"p99 {own.p99:.2f} ms"),
        _figure("frame in, result out over WebSocket, p50", whole.p50, "ms", note=f"p99 {whole.p99:.2f} ms"),
        _figure("added by WebSocket, p50", whole.p50 - own.p50, "ms", promise=1, at_most=True),
        _figure("CPU of the gateway per frame and result", 1e6 * cpu, "µs"),
    ]


class _Chunks:
    """A listener that returns one chunk after the other."""

    def __init__(self) -> None:
        self.come = asyncio.Event()

    def chunk(self, _json: bytes, _segments: Sequence[Segment]) -> None:
        self.come.set()

    def progress(self, json: bytes) -> None: ...
    def log(self, level: str, message: str) -> None: ...


async def _direct(host: ModelHost, deployment: Deployment) -> list[float]:
    chunks = _Chunks()
    session = host.session(deployment, b"{}", listener=chunks)
    found = []
    for _ in range(_FRAMES):
        began = time.perf_counter()
        await session.send(b"null", [Segment(_AUDIO, "audio/x-raw", ())])
        await chunks.come.wait()
        found.append(time.perf_counter() - began)
        chunks.come.clear()
        session.consume(session.unread)
    session.finish()
    await session.done
    session.close()
    return found


async def _over_websocket(address: str) -> list[float]:
    client = await _Client.open(address)
    await client.begin()
    frame = _frame(_message(1))
    found = []
    for _ in range(_FRAMES):
        began = time.perf_counter()
        client.writer.write(frame)
        await client.result()
        found.append(time.perf_counter() - began)
    client.close()
    return found


# Memory


async def _memory(address: str, pid: int) -> list[Figure]:
    """Open sessions; each has sent a part and got a result."""
    first = [await _begun(address) for _ in range(50)]  # what is allocated once
    before, replica_before = _pss_bytes(pid), _replica_bytes(pid)
    clients = [await _begun(address) for _ in range(SESSIONS)]
    after, replica_after = _pss_bytes(pid), _replica_bytes(pid)
    for client in [*first, *clients]:
        client.close()
    each, in_replica = (after - before) / SESSIONS, (replica_after - replica_before) / SESSIONS
    return [
        _figure(
            f"memory of the gateway per session, with {SESSIONS:,} open", each / 1000, "kB", promise=50, at_most=True,
            note=f"proportional set size; the replica of the model: {in_replica / 1000:.1f} kB",
        )
    ]  # fmt: skip


async def _begun(address: str) -> _Client:
    client = await _Client.open(address)
    await client.begin()
    client.writer.write(_frame(_message(1)))
    await client.result()
    return client


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _replica_bytes(pid: int) -> int:
    """Return the memory of the gateway's child processes."""
    found = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found += _pss_bytes(int(child))
        except OSError:
            continue
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


# A client that costs little


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str) -> _Client:
        parts = urlsplit(address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**14)
        writer.write(
            b"GET /v1/private/length HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % parts.netloc.encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head[:20]:
            raise RuntimeError(f"no WebSocket: {head[:200]!r}")
        return cls(reader, writer)

    async def begin(self) -> None:
        """Begin a session, and wait until the server has confirmed it and the first result has come."""
        self.writer.write(_frame(_message(0)))
        await self.result()
        await self.result()

    async def result(self) -> bytes:
        """Return the next message. Raises RuntimeError for anything but a success."""
        head = await self._reader.readexactly(2)
        size = head[1] if head[1] < 126 else int.from_bytes(await self._reader.readexactly(2), "big")
        message = await self._reader.readexactly(size)
        if head[0] != 0x81 or b'"code":0' not in message:
            raise RuntimeError(f"no result: {message[:200]!r}")
        return message

    def close(self) -> None:
        self.writer.transport.abort()


def _message(status: int) -> bytes:
    audio = {"audio": base64.b64encode(_AUDIO).decode(), "encoding": "raw", "status": status}
    return msgspec.json.encode({"payload": {"audio": audio}})


def _frame(message: bytes) -> bytes:
    """Return a text frame of a client, with a mask of zeros."""
    return b"\x81\xfe" + len(message).to_bytes(2, "big") + b"\0\0\0\0" + message


def _figure(scenario: str, value: float, unit: str, **more: Any) -> Figure:
    return Figure(scenario=scenario, value=value, unit=unit, group="athena", **more)
