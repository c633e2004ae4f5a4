"""A map is one step: a job that keeps a window of child jobs going."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.flows.test_runner import decoded, finished, submit
from tests.support.databases import query
from tests.support.flow_runners import running
from tests.support.jobs import JobCaller
from tests.support.waiting import until

MAPS = """
from penstock.flows import flow, run

@flow(name="map", version="1")
async def mapped(count: int, limit: int = 16) -> int:
    results = await run.map("echo", range(count), limit=limit)
    assert results == list(range(count)), results
    return len(results)

@flow(name="broken", version="1")
async def broken() -> str:
    try:
        await run.map("echo", [1, {"fail": True}, 3], limit=1)
    except Exception as error:
        return str(error)
    return "no failure"

@flow(name="tolerant", version="1")
async def tolerant() -> list:
    found = await run.map("echo", [1, {"fail": True}, 3], return_exceptions=True)
    return [one if isinstance(one, int) else "failed" for one in found]

@flow(name="empty", version="1")
async def empty() -> list:
    return await run.map("echo", [])
"""


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (10, 3), (300, 16), (300, 256)])
async def test_a_map_gives_the_results_in_order(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path, count: int, limit: int
) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    async with running(service, database, tmp_path) as runner:
        run_id = await submit(caller, "map@1", {"count": count, "limit": limit})

        assert decoded(await finished(caller, run_id)) == count

    assert sorted(runner.calls) == list(range(count)), "each item runs once"
    assert await query(database, "SELECT count(*) FROM flow_step WHERE run_id = $1", run_id) == [(1,)]
    assert await query(database, "SELECT count(*) FROM flow_mail WHERE run_id = $1", run_id) == [(1,)]
    assert await query(database, "SELECT count(*) FROM flow_block WHERE tenant_id = $1", caller.tenant) == [(0,)]
    assert await query(database, "SELECT count(*) FROM flow_gate WHERE tenant_id = $1", caller.tenant) == [(0,)]


async def test_the_first_failure_ends_a_map_and_is_raised(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path
) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    async with running(service, database, tmp_path) as runner:
        found = decoded(await finished(caller, await submit(caller, "broken@1")))

    assert "item 1: it is to fail" in found
    assert 3 not in runner.calls


async def test_a_map_may_have_failures_in_the_places_of_results(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path
) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    async with running(service, database, tmp_path):
        assert decoded(await finished(caller, await submit(caller, "tolerant@1"))) == [1, "failed", 3]
        assert decoded(await finished(caller, await submit(caller, "empty@1"))) == []


async def test_no_more_items_than_the_limit_are_submitted_and_a_waiting_map_is_parked(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path
) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    async with running(service, database, tmp_path, jobs=False, linger=0):
        run_id = await submit(caller, "map@1", {"count": 100, "limit": 8})

        async def parked() -> bool:
            counts = await query(
                database,
                "SELECT count(*) FROM flow_gate WHERE tenant_id = $1 AND parked_at IS NOT NULL AND is_map",
                caller.tenant,
            )
            return counts == [(1,)]

        await until(parked, "the map is parked")
        assert await query(database, "SELECT count(*) FROM ready WHERE tenant_id = $1", caller.tenant) == [(8,)]
        assert await caller.status(run_id) is Status.WAITING

    items = await caller.claim(8, task_types=["predict"])
    assert len(items) == 8
    for item in items[:2]:
        await caller.complete(item)
    async with running(service, database, tmp_path, jobs=False, linger=0):

        async def pumped() -> bool:
            return await query(database, "SELECT count(*) FROM job WHERE tenant_id = $1", caller.tenant) == [(12,)]

        await until(pumped, "the freed block is used again")
