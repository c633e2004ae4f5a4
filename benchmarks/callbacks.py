"""Callbacks to one fast receiver, beside the limit of the HTTP client: the same messages without a database."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.figures import Figure
from benchmarks.ground import SUBMISSION, fresh_database, process
from penstock.access.audit import Sender as ManagingSender
from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.callbacks.endpoint import EndpointCreation
from penstock.callbacks.sealing import Sealing
from penstock.callbacks.sender import Sender, policy_of
from penstock.callbacks.service import CallbackService
from penstock.jobs.service import JobService
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR

MESSAGES = 20_000
CONCURRENCY = 16
_CHUNK = 5000
_LOOPBACK = "127.0.0.0/8"
_HEADERS = {
    "Content-Type": "application/cloudevents+json",
    "webhook-id": "msg_1_20000-1-4294967295",
    "webhook-timestamp": "1764460800",
    "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
}


@dataclass(slots=True)
class Received:
    """What a receiver has counted."""

    count: int = 0
    wanted: int = MESSAGES
    first_at: float = 0.0
    last_at: float = 0.0
    body: bytes = b""
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, body: bytes) -> None:
        self.last_at = time.perf_counter()
        self.count += 1
        if self.count == 1:
            self.first_at, self.body = self.last_at, body
        if self.count == self.wanted:
            self.complete.set()

    @property
    def rate(self) -> float:
        return (self.count - 1) / (self.last_at - self.first_at)


class Hook(asyncio.Protocol):
    """One connection of a receiver that does nothing but count."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            start = head.index(b"content-length:") + 15
            length = int(head[start:].split(b"\r\n", 1)[0])
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            self._received.add(self._buffer[end + 4 : whole])
            self._buffer = self._buffer[whole:]
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, Received]]:
    """A receiver in this process."""
    received = Received()
    server = await asyncio.get_running_loop().create_server(lambda: Hook(received), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", received


async def run(server: EmbeddedServer) -> list[Figure]:
    """Measure by turns, three times each; the rate is that of the receiver."""
    sent: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    body = b""
    for _ in range(3):
        rate, cpu, body = await _callbacks(server)
        sent.append((rate, cpu))
        bare.append(await _bare(body))
    rate, cpu = sorted(sent)[1]
    limit, own = sorted(bare)[1]
    return [
        Figure(
            scenario=f"{MESSAGES:,} callbacks to one receiver, one housekeeper",
            value=rate,
            unit="/s",
            promise=2000,
            note=f"median of 3; {rate / limit:.2f} of the client's limit; {cpu * 1e6:.0f} µs of CPU time each",
        ),
        Figure(
            scenario="the same messages by the same HTTP client, without a database",
            value=limit,
            unit="/s",
            note=f"median of 3, by turns; {own * 1e6:.0f} µs of CPU time each",
        ),
    ]


async def _callbacks(server: EmbeddedServer) -> tuple[float, float, bytes]:
    """Return the rate, the CPU time of the housekeeper for each message, and a body."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        async with fresh_database(server) as url, receiver() as (address, received):
            await _submit(url, address, Path(folder))
            environment = {
                "DATABASE_URL": url,
                "PENSTOCK_DATA_DIR": folder,
                "PENSTOCK_FETCH_NETWORKS": _LOOPBACK,
                "PENSTOCK_CALLBACK_CONCURRENCY": str(CONCURRENCY),
            }
            async with process("-m", "penstock", "housekeeper", **environment) as housekeeper:
                while not received.count:
                    await asyncio.sleep(0.01)
                began = _cpu_seconds(housekeeper.pid)
                await asyncio.wait_for(received.complete.wait(), 120)
                used = _cpu_seconds(housekeeper.pid) - began
            return received.rate, used / MESSAGES, received.body


async def _submit(url: str, address: str, folder: Path) -> None:
    """Register the receiver for events of created jobs, and submit jobs."""
    database = Database(url, application_name="penstock-bench")
    jobs = JobService(database)
    try:
        sealing = Sealing(Instance(database, SecretSource(None, folder)))
        service = CallbackService(database, jobs.wakeups, sealing=sealing, policy=policy_of([_LOOPBACK]))
        sender = ManagingSender(principal=OPERATOR, address="benchmark")
        await service.create(sender, EndpointCreation(url=address, events=["job.created"]))
        for _ in range(MESSAGES // _CHUNK):
            await jobs.of(DEFAULT_TENANT).submit_many([SUBMISSION] * _CHUNK)
        async with database.acquire() as connection:
            await connection.execute("CHECKPOINT")
    finally:
        await database.close()


async def _bare(body: bytes) -> tuple[float, float]:
    """Return the rate of a process that only posts, and its CPU time for each message."""
    async with receiver() as (address, received):
        async with process("-m", "benchmarks.callbacks", address, body.decode()) as poster:
            while not received.count:
                await asyncio.sleep(0.01)
            began = _cpu_seconds(poster.pid)
            await asyncio.wait_for(received.complete.wait(), 120)
            used = _cpu_seconds(poster.pid) - began
        return received.rate, used / MESSAGES


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def post(address: str, body: bytes) -> None:
    """Post the same message again and again."""
    sender = Sender(policy_of([_LOOPBACK]))
    left = iter(range(MESSAGES))

    async def one() -> None:
        for _ in left:
            await sender.send(address, _HEADERS, body)

    await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
    await asyncio.sleep(1)  # while the other process reads our CPU time
    await sender.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(post(sys.argv[1], sys.argv[2].encode()))
