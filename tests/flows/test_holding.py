"""Runs are held while their code cannot continue, and released by other code; a commit of unknown outcome is stored
once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from msgspec import Raw

from penstock.flows.process.program import Limits
from penstock.flows.service import FlowService
from penstock.jobs.filters import JobFilter
from penstock.jobs.service import JobService
from penstock.jobs.sql import retention
from penstock.jobs.states import Status
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from tests.flows.test_runner import decoded, finished, submit
from tests.support.clocks import Clock
from tests.support.database_proxy import SOCKET, DatabaseProxy, database_over
from tests.support.databases import open_database, own_tenant, query
from tests.support.flow_runners import running
from tests.support.jobs import JobCaller, job_service
from tests.support.runs import ManualRun
from tests.support.waiting import until

ONE = """
from penstock.flows import flow, run

@flow(name="changing", version="1")
async def changing() -> list:
    first = await run.call("echo", 1)
    return [first, await run.wait_signal("go")]
"""
CHANGED = ONE.replace('run.call("echo", 1)', 'run.call("other", 1)')
DEADLY = """
import os, signal
from penstock.flows import flow, run

@flow(name="deadly", version="1")
async def deadly() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""
STEPS = """
from penstock.flows import flow, run

@flow(name="steps", version="1")
async def steps(number: int) -> list:
    first = await run.call("echo", [number, 1])
    value = await run.side_effect(lambda: number)
    both = await run.gather(run.call("echo", [number, 2]), run.call("echo", [number, 3]))
    return [first, value, both]
"""


async def state_of(caller: JobCaller, run_id: UUID) -> tuple[Status, str | None]:
    job = await caller.get(run_id)
    return job.status, job.hold


async def test_changed_code_holds_a_run_until_the_code_is_put_back(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path
) -> None:
    file = tmp_path / "flows.py"
    file.write_text(ONE)
    flows = FlowService(database, service)
    async with running(service, database, tmp_path, linger=0) as runner:
        run_id = await submit(caller, "changing@1")

        async def waits() -> bool:
            return len((await flows.tree(caller.tenant, run_id, from_no=0, limit=10)).steps) == 2

        await until(waits, "the run waits for a signal")
        await until(lambda: runner.runner._publishing.code != "", "the flows are published")
        before = runner.runner._publishing.code
        file.write_text(CHANGED)
        runner.runner.process.reload()
        await until(lambda: runner.runner._publishing.code != before, "the changed flows are published")
        await flows.signal(caller.tenant, run_id, "go", Raw(b"7"), key=None)

        async def held() -> bool:
            return await state_of(caller, run_id) == (Status.WAITING, "changed")

        await until(held, "the run is held")
        found = (await flows.tree(caller.tenant, run_id, from_no=0, limit=10)).difference
        assert found is not None
        assert ("echo" in found.stored, "other" in found.found) == (True, True)
        assert await held_runs(flows, caller) == [run_id]

        file.write_text(ONE)
        runner.runner.process.reload()

        assert decoded(await finished(caller, run_id)) == [1, 7]


async def test_a_run_whose_process_dies_again_and_again_is_held(
    database: Database, service: JobService, caller: JobCaller, tmp_path: Path
) -> None:
    (tmp_path / "flows.py").write_text(DEADLY)
    async with running(service, database, tmp_path, limits=Limits()):
        run_id = await submit(caller, "deadly@1")

        async def held() -> bool:
            return await state_of(caller, run_id) == (Status.WAITING, "broken")

        await until(held, "the run is held")
    assert (await caller.get(run_id)).attempt <= 1


@pytest.mark.parametrize("words", ["flow_commit", "COMMIT"])
async def test_a_turn_whose_commit_is_not_confirmed_is_stored_once(
    database: Database, caller: JobCaller, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, words: str
) -> None:
    (tmp_path / "flows.py").write_text(STEPS)
    (host,) = parse_qs(urlsplit(database.url).query)["host"]
    line = DatabaseProxy(tmp_path_factory.mktemp("line"), f"{host}/{SOCKET}")
    await line.mend()
    over = database_over(line, database.url)
    try:
        async with job_service(over) as far, running(far, over, tmp_path, linger=0.2) as runner:
            for number in range(6):
                line.lose_response_to(words.encode())
                run_id = await submit(caller, "steps@1", {"number": number})
                expected = [[number, 1], number, [[number, 2], [number, 3]]]
                assert decoded(await finished(caller, run_id)) == expected
        assert sorted(runner.calls) == sorted([number, item] for number in range(6) for item in (1, 2, 3))
    finally:
        await over.close()
        await line.cut()


async def test_retention_keeps_parked_runs_and_what_they_need(database_url: str) -> None:
    async with open_database(database_url) as database, job_service(database) as service:
        caller, clock = JobCaller(service, await own_tenant(database)), Clock(database)
        run = await ManualRun.begin(caller, calls=2, need=2, park=True)
        done = await caller.claim_one(task_types=["echo"])
        await caller.complete(done, b'"' + b"x" * 9000 + b'"')
        ended = await ManualRun.begin(caller)
        async with database.acquire() as connection, connection.transaction():
            await ended.end_on(connection)

        await clock.advance(timedelta(days=40))
        async with database.acquire() as connection:
            await partitions.make_room(connection)
            await retention.drop_old(connection, timedelta(days=30))

        assert await run.home() == "parked"
        assert await query(database, "SELECT count(*) FROM flow_step WHERE run_id = $1", run.id) == [(2,)]
        assert await query(database, "SELECT count(*) FROM flow_turn WHERE run_id = $1", run.id) == [(1,)]
        assert await query(database, "SELECT count(*) FROM done WHERE job_id = $1", done.id) == [(1,)]
        assert await query(database, "SELECT count(*) FROM flow_turn WHERE run_id = $1", ended.id) == [(0,)]
        last = await caller.claim_one(task_types=["echo"])
        await caller.complete(last)
        assert await run.home() == "ready"


async def held_runs(flows: FlowService, caller: JobCaller) -> list[UUID]:
    page = await flows.list(caller.tenant, JobFilter(), held=True, stranded=False, limit=10, cursor=None)
    return [run.id for run in page.runs]
