"""Outages of the database: the gateway reports them and recovers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.masking import Secret
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.migrate import migrate
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway
from tests.support.waiting import until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """This test's own PostgreSQL, not running yet."""
    server = EmbeddedServer(tmp_path)
    yield server
    await server.stop()


async def is_ready(caller: HttpCaller) -> bool:
    return (await caller.get("/readyz")).status == 200


async def assert_unavailable(caller: HttpCaller) -> None:
    """Check that routes that need the database return 503 and that all others work."""
    for method, path, value in (
        ("GET", "/readyz", None),
        ("GET", "/jobs", None),
        ("GET", "/stats", None),
        ("GET", "/jobs/01a1fbba-bf9b-70c9-b890-daafa0bbb9de", None),
        ("GET", "/jobs/01a1fbba-bf9b-70c9-b890-daafa0bbb9de/events", None),
        ("POST", "/jobs", SUBMISSION),
        ("POST", "/jobs/batch", {"jobs": [SUBMISSION]}),
        ("POST", "/jobs/claim", {"worker_id": "w", "wait_seconds": 1}),
        ("POST", "/jobs/01a1fbba-bf9b-70c9-b890-daafa0bbb9de/complete", {"epoch": 1}),
        ("POST", "/jobs/cancel", {"task_type": "x"}),
    ):
        reply = await caller.call(method, path, value)
        assert reply.outcome == (503, "database_unavailable"), path
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["content-type"] == "application/problem+json"
    for path in ("/healthz", "/metrics", "/openapi.json"):
        assert (await caller.get(path)).status == 200


@pytest.mark.timeout(400)
async def test_a_gateway_outlives_an_outage_of_its_database(server: EmbeddedServer) -> None:
    async with running_gateway(server.url, ai_service_token=Secret("token")) as caller:
        await assert_unavailable(caller)

        await server.start()
        await migrate(server.url)
        await until(lambda: is_ready(caller), "the gateway found its database", seconds=20)
        job = await caller.submit()

        claiming = asyncio.create_task(
            caller.post("/jobs/claim", {"worker_id": "w", "task_types": ["no"], "wait_seconds": 60})
        )
        await until(lambda: "/api/v1/jobs/claim" in caller.in_progress, "a claim waits")
        await server.stop()
        await assert_unavailable(caller)
        assert (await claiming).outcome == (503, "database_unavailable")

        await server.start()
        await until(lambda: is_ready(caller), "the gateway found its database again", seconds=20)
        assert (await caller.get(f"/jobs/{job['id']}")).json["status"] == "pending"
        waiting = asyncio.create_task(caller.claim(wait_seconds=15, task_types=["after"]))
        after = await caller.submit(task_type="after")
        assert [claimed["id"] for claimed in await waiting] == [after["id"]]
