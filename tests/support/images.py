"""The components of a compose file as processes of this machine: the same commands and variables, other addresses."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from penstock.supervisor.ports import free_port
from tests.support.processes import clean_environment
from tests.support.waiting import until


@asynccontextmanager
async def tcp_to(url: str) -> AsyncIterator[int]:
    """Listen on a port of loopback, and pass connections on to the Unix socket of an embedded PostgreSQL."""
    (folder,) = parse_qs(urlsplit(url).query)["host"]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port := free_port())
    try:
        yield port
    finally:
        server.close()


@dataclass(kw_only=True)
class Container:
    """A component that runs, and is started again when it was killed, as Compose does."""

    name: str
    command: Sequence[str]
    probe: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    process: Process | None = field(default=None)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    async def start(self) -> None:
        """Run the component's command."""
        assert self.process is None
        self.process = await self._run(self.command, start_new_session=True)

    async def healthy(self) -> bool:
        """Run the component's health check."""
        assert self.process is not None
        assert self.process.returncode is None, self.log.read_text()
        return await (await self._run(self.probe)).wait() == 0

    async def kill(self) -> None:
        """Kill the first process with SIGKILL, as when a container is killed, and wait until it has ended."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    async def stop(self) -> int:
        """Stop it as Compose does, and return its exit status."""
        process, self.process = self.process, None
        assert process is not None
        process.terminate()
        return await process.wait()

    async def _run(self, command: Sequence[str], **options: Any) -> Process:
        program, *arguments = command
        path = Path(sys.executable).with_name(program)  # what the image has on its PATH
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                path, *arguments, env=dict(self.environment), cwd=self.folder, stdin=DEVNULL, stdout=log, stderr=log,
                **options,
            )  # fmt: skip


def container(
    name: str, service: Mapping[str, Any], image: Mapping[str, str], folder: Path, *, hosts: Mapping[str, str]
) -> Container:
    """Return a service of a compose file as a process.

    Hosts of the compose file's network are replaced by the addresses in ``hosts``, folders of the image by ones below
    ``folder``, and the port of a worker, which is the same in every container, by a free one.
    """
    home = folder / name
    home.mkdir()
    stated = {key: str(value) for key, value in service["environment"].items()}
    own = {"PENSTOCK_DATA_DIR": str(home), "PENSTOCK_APPS_DIR": str(folder / image["PENSTOCK_APPS_DIR"].lstrip("/"))}
    loopback = {"HTTP_HOST": "127.0.0.1", "WORKER_HTTP_HOST": "127.0.0.1"}
    environment = {key: value for key, value in image.items() if key != "PATH"} | stated | own | loopback
    environment = {key: hosts.get(value, value) for key, value in environment.items()}
    probe = service["healthcheck"]["test"][1:]
    port = environment.get("WORKER_HTTP_PORT")
    if port is not None:
        environment["WORKER_HTTP_PORT"] = str(free_port())
        probe = [word.replace(f":{port}/", f":{environment['WORKER_HTTP_PORT']}/") for word in probe]
    return Container(
        name=name,
        command=service["command"],
        probe=probe,
        environment=clean_environment(**environment),
        folder=folder,
    )


async def all_healthy(containers: Sequence[Container]) -> None:
    """Wait until every health check succeeds."""

    async def good(one: Container) -> None:
        try:
            await until(one.healthy, f"{one.name} is healthy", seconds=90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{one.log.read_text()}") from None

    await asyncio.gather(*(good(one) for one in containers))
