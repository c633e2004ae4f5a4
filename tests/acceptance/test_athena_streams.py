"""Kill -9 of an engine, of the gateway and of PostgreSQL during 200 sessions over WebSocket."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import WSMsgType

from tests.support.processes import alive
from tests.support.serve import Served, serving
from tests.support.waiting import until

SESSIONS: Final = 200
AT_ONCE_SECONDS: Final = 10.0  # a limit against hanging on a busy machine; what ends is known within milliseconds
MODEL = """
    from collections.abc import AsyncIterator

    class Model:
        async def predict(self, name: str) -> str:
            return name

        async def session(self, name: str, parts: AsyncIterator[str]) -> AsyncIterator[str]:
            async for part in parts:
                yield f"{name} {part}"
"""
MANIFEST = """
runtime = "python"
replicas = 2
concurrency = 100
eager = true
[python]
class = "model:Model"
"""


@dataclass(slots=True)
class Conversation:
    """A client that sends a part, waits for its result, and so on until it is to stop."""

    name: str
    results: int = 0
    code: int | None = None  # of the error that ended it
    completed: bool = False
    ended_at: float = 0.0
    foreign: list[str] = field(default_factory=list)  # results of other sessions
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, session: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> None:
        try:
            async with session.ws_connect(url) as socket:
                first = _message("0", 0) | {"parameter": {"echo": {"name": self.name}}}
                await socket.send_bytes(msgspec.json.encode(first))
                await self._talk(socket, stop)
        except (aiohttp.ClientError, OSError):
            pass  # the connection was lost
        finally:
            self.ended_at = time.monotonic()
            self.begun.set()

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, stop: asyncio.Event) -> None:
        async for received in socket:
            if received.type is not WSMsgType.TEXT:
                return
            message = msgspec.json.decode(received.data)
            header = message["header"]
            if header["code"]:
                self.code = header["code"]
            elif header["status"] == 2:
                self.completed = True
            elif "payload" in message:
                text = base64.b64decode(message["payload"]["result"]["text"]).decode()
                if text != f"{self.name} {self.results}":
                    self.foreign.append(text)
                self.results += 1
                self.begun.set()
                await socket.send_bytes(msgspec.json.encode(_message(str(self.results), 2 if stop.is_set() else 1)))


def _message(text: str, status: int) -> dict[str, Any]:
    return {"payload": {"words": {"text": base64.b64encode(text.encode()).decode(), "status": status}}}


@dataclass(slots=True)
class Load:
    """All clients of one gateway."""

    served: Served
    session: aiohttp.ClientSession
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[Conversation] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def begin(self) -> None:
        """Return once every session has had results."""
        self.stop.clear()
        url = f"http://127.0.0.1:{self.served.port}/v1/private/echo"
        self.clients = [Conversation(f"client{number}") for number in range(SESSIONS)]
        self.tasks = [asyncio.create_task(one.run(self.session, url, self.stop)) for one in self.clients]
        for one in self.clients:
            await asyncio.wait_for(one.begun.wait(), 60)
        assert not any(one.ended_at for one in self.clients), "every session runs"

    async def finish(self) -> None:
        """Let the sessions that run end, and check that no frame reached another session."""
        self.stop.set()
        await asyncio.wait_for(asyncio.gather(*self.tasks), 60)
        assert [one.foreign for one in self.clients if one.foreign] == []
        assert [one.name for one in self.clients if not one.completed and one.code is None and one.ended_at == 0] == []

    async def model(self) -> dict[str, Any]:
        async with self.session.get(f"http://127.0.0.1:{self.served.port}/api/v1/models/echo") as response:
            shown: list[dict[str, Any]] = (await response.json()).get("details", [])
        return shown[0] if shown else {}

    async def idle(self) -> None:
        """Wait until no place is taken."""

        async def holds() -> bool:
            try:
                shown = await self.model()
            except aiohttp.ClientError:
                return False
            ready = [one for one in shown.get("replicas", []) if one["state"] == "ready"]
            return (shown.get("in_flight"), shown.get("waiting")) == (0, 0) and len(ready) == 2

        await until(holds, "both replicas are ready and no place is taken")


@asynccontextmanager
async def load(folder: Path) -> AsyncIterator[Load]:
    models = folder / "models" / "echo"
    models.mkdir(parents=True)
    (models / "model.toml").write_text(MANIFEST)
    (models / "model.py").write_text("\n".join(line[4:] for line in MODEL.splitlines()))
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(folder, PENSTOCK_MODELS_DIR=str(folder / "models")))
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        found = Load(served=served, session=session)
        await found.idle()
        yield found


async def test_sessions_end_at_once_or_go_on_whatever_is_killed(tmp_path: Path) -> None:
    async with load(tmp_path) as clients:
        await _kill_an_engine(clients)
        await _kill_postgres(clients)
        await _kill_the_gateway(clients)


async def _kill_an_engine(clients: Load) -> None:
    """Its sessions get an error at once, those of the other replica their results."""
    await clients.begin()
    killed = (await clients.model())["replicas"][0]
    assert killed["in_flight"] == SESSIONS // 2
    at = time.monotonic()
    os.kill(killed["pid"], signal.SIGKILL)
    await until(
        lambda: sum(one.code is not None for one in clients.clients) == SESSIONS // 2, "its sessions have ended"
    )
    failed = [one for one in clients.clients if one.code is not None]
    assert {one.code for one in failed} == {10109}
    assert max(one.ended_at for one in failed) - at < AT_ONCE_SECONDS
    await clients.finish()
    assert sum(one.completed for one in clients.clients) == SESSIONS // 2
    await clients.idle()


async def _kill_postgres(clients: Load) -> None:
    """Sessions do not need it: each gets its result."""
    await clients.begin()
    before = [one.results for one in clients.clients]
    killed = clients.served.part("postgres")
    os.kill(killed, signal.SIGKILL)
    await until(lambda: not alive(killed), "PostgreSQL has ended")
    await until(
        lambda: all(one.results > count + 3 for one, count in zip(clients.clients, before, strict=True)),
        "every session goes on",
    )
    await clients.finish()
    assert all(one.completed for one in clients.clients)
    await until(lambda: clients.served.part("postgres") not in {0, killed}, "PostgreSQL runs again")
    await until(clients.served.ready, "the gateway is ready")
    await clients.idle()


async def _kill_the_gateway(clients: Load) -> None:
    """Every connection is lost at once; engines end with their gateway, and new sessions are served."""
    await clients.begin()
    engines = [one["pid"] for one in (await clients.model())["replicas"]]
    at = time.monotonic()
    os.kill(clients.served.part("gateway"), signal.SIGKILL)
    await asyncio.wait_for(asyncio.gather(*clients.tasks), 60)
    assert max(one.ended_at for one in clients.clients) - at < AT_ONCE_SECONDS
    assert [one.foreign for one in clients.clients if one.foreign] == []
    await until(lambda: not any(alive(pid) for pid in engines), "its engines have ended")
    await until(clients.served.ready, "the gateway is ready")
    await clients.idle()
    await clients.begin()
    await clients.finish()
    assert all(one.completed for one in clients.clients)
    await clients.idle()
