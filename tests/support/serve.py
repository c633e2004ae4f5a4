"""A running ``penstock serve`` with a data folder of its own."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.supervisor.ports import free_port
from penstock.supervisor.serve import is_ready
from tests.support.processes import children, clean_environment, penstock
from tests.support.waiting import until

READY_WITHIN_SECONDS = 60.0  # a limit against hanging: machines that run tests are busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running ``penstock serve``."""

    process: Process
    port: int
    environment: dict[str, str]
    folder: Path
    log: Path

    async def ready(self) -> bool:
        return await is_ready("127.0.0.1", self.port)

    def parts(self) -> dict[str, int]:
        """Return process ids by role."""
        found: dict[str, int] = {}
        for pid, command in children(self.process.pid).items():
            words = command.split()
            if words:
                found["postgres" if "postgres" in words[0] else words[-1]] = pid
        return found

    def part(self, name: str) -> int:
        return self.parts().get(name, 0)


@asynccontextmanager
async def serving(folder: Path, *options: str, **variables: str) -> AsyncIterator[Served]:
    port = free_port()
    environment = clean_environment(
        HTTP_PORT=str(port),
        WORKER_HTTP_PORT=str(free_port(2)),  # a second worker takes the next
        PENSTOCK_DATA_DIR=str(folder / "data"),
        PENSTOCK_SHUTDOWN_GRACE="5s",
        **variables,
    )
    log = folder / "serve.log"
    async with penstock("serve", *options, environment=environment, folder=folder, log=log) as process:
        served = Served(process=process, port=port, environment=environment, folder=folder, log=log)
        try:
            await until(served.ready, "the gateway is ready", seconds=READY_WITHIN_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield served
