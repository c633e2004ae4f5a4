"""The process ``penstock gateway``: it starts, serves, and ends waiting requests when it gets a signal."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from penstock.supervisor.ports import free_port
from tests.support.gateways import SUBMISSION
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until


async def responds(session: aiohttp.ClientSession, path: str) -> bool:
    try:
        async with session.get(path) as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_waiting_requests_and_then_the_process(
    tmp_path: Path, database_url: str, number: signal.Signals
) -> None:
    port = free_port()
    environment = clean_environment(DATABASE_URL=database_url, HTTP_PORT=str(port), PENSTOCK_DATA_DIR=str(tmp_path))
    address = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    async with (
        penstock("gateway", environment=environment, folder=tmp_path, log=log) as process,
        aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        await until(lambda: responds(session, "/readyz"), "the gateway is ready", seconds=20)
        async with session.post("/api/v1/jobs", json=SUBMISSION) as reply:
            assert reply.status == 201, await reply.text()
            job_id = (await reply.json())["id"]
        claim = {"worker_id": "w", "task_types": ["nothing"], "wait_seconds": 60}
        async with session.get(f"/api/v1/jobs/{job_id}/events") as events:
            async for line in events.content:
                if line.startswith(b"data:"):
                    break
            waiting = asyncio.create_task(session.get(f"/api/v1/jobs/{job_id}?wait=60"))
            claiming = asyncio.create_task(session.post("/api/v1/jobs/claim", json=claim))
            async with session.get("/healthz"):
                pass  # the response comes after those two began: one process, one loop
            process.send_signal(number)
            assert b"data:" not in await events.content.read()
        async with await waiting as reply:
            assert (await reply.json())["status"] == "pending"
        async with await claiming as reply:
            assert await reply.json() == {"jobs": []}
        assert await asyncio.wait_for(process.wait(), 10) == 0
    assert "Traceback" not in log.read_text()
