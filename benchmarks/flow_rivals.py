"""The flows of DBOS on the same server, for the comparison in ``flows``."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import asyncpg

from benchmarks.environments import ENVIRONMENTS, label, prepare
from benchmarks.ground import fresh_database
from benchmarks.queues.subjects import PACKAGES, RIVALS
from penstock.postgres.embedded import EmbeddedServer

DBOS: Final = label(PACKAGES["dbos"][0])
_SECONDS: Final = 300.0
_STORED: Final = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS' AND name = $1"


async def prepared() -> str | None:
    """Install DBOS unless it is installed; return why that failed, or None."""
    return await asyncio.to_thread(prepare, "dbos", PACKAGES["dbos"])


async def rate(server: EmbeddedServer, kind: str, count: int) -> float:
    """Return how many workflows of a kind, ``inline`` or ``children``, one process completes in a second."""
    async with fresh_database(server, migrated=False) as url:
        seconds = await _output(url, kind, count)
        connection = await asyncpg.connect(url)
        try:
            stored = await connection.fetchval(_STORED, kind)
        finally:
            await connection.close()
    if stored < count:
        raise RuntimeError(f"DBOS has stored {stored} workflows of {count}")
    return count / seconds


async def latency(server: EmbeddedServer, count: int) -> float:
    """Return the p50, in milliseconds, of single workflows of three steps."""
    async with fresh_database(server, migrated=False) as url:
        return 1000 * await _output(url, "one", count)


async def _output(url: str, kind: str, count: int) -> float:
    program = ENVIRONMENTS / "dbos" / "bin" / "python"
    process = await asyncio.create_subprocess_exec(
        *(str(program), str(RIVALS / "dbos_flows_app.py"), kind, str(count)),
        env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"DBOS ended with status {process.returncode}")
    return float(output)
