"""A PostgreSQL server for one test that can be killed, dumped and restored."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from penstock.postgres.embedded import EmbeddedServer, program
from penstock.postgres.migrate import migrate
from tests.support.processes import alive, children
from tests.support.waiting import until


@asynccontextmanager
async def own_server(folder: Path, *, migrated: bool = True) -> AsyncIterator[EmbeddedServer]:
    """Yield a running server; with the newest schema unless ``migrated`` is false."""
    server = EmbeddedServer(folder)
    await server.start()
    try:
        if migrated:
            await migrate(server.url)
        yield server
    finally:
        await server.stop()


async def kill(server: EmbeddedServer) -> None:
    """Kill every process of the server with SIGKILL, as a power cut would, and wait until they have ended."""
    assert server.pid is not None
    pids = [server.pid, *children(server.pid)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await server.wait_died()
    await until(lambda: not any(alive(pid) for pid in pids), "every process of the server has ended")


async def burn_transaction_numbers(url: str, count: int) -> None:
    """Use up transaction numbers without writing anything: the server forgets them when it is killed."""
    connection = await asyncpg.connect(url, server_settings={"synchronous_commit": "off"})
    try:
        await connection.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK;" * count)
    finally:
        await connection.close()


async def copy_by_dump(source: EmbeddedServer, target: EmbeddedServer) -> None:
    """Dump the database of ``source`` with pg_dump and restore it into the empty database of ``target``."""
    dumped = await _output(program("pg_dump"), "--dbname", source.url)
    await _output(program("psql"), "--dbname", target.url, "-v", "ON_ERROR_STOP=1", "-q", given=dumped)


async def _output(path: Path, *arguments: str, given: bytes | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        str(path), *arguments, stdin=DEVNULL if given is None else PIPE, stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate(given)
    assert process.returncode == 0, errors.decode()
    return output
