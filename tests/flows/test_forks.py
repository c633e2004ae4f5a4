"""A failed run continues from its failed step, and a run is rerun from a step: finished jobs do not run again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from penstock.errors import WrongState
from penstock.flows.service import FlowService
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.flows.test_runner import decoded, finished, submit
from tests.support.databases import execute, query
from tests.support.flow_runners import running
from tests.support.jobs import JobCaller

FLOWS = """
from penstock.flows import flow, run

@flow(name="steps", version="1")
async def steps(last: int = 0) -> list:
    first = await run.call("echo", 1)
    value = await run.side_effect(lambda: 5)
    both = await run.gather(run.call("echo", 2), run.call("echo", {"fail": True}))
    third = await run.call("echo", 3 + last)
    return [first, value, both, third]

@flow(name="good", version="1")
async def good(last: int = 0) -> list:
    first = await run.call("echo", 1)
    second = await run.call("echo", 2)
    return [first, second, await run.call("echo", 3 + last)]
"""


@pytest.fixture
def flows(database: Database, service: JobService, tmp_path: Path) -> FlowService:
    (tmp_path / "flows.py").write_text(FLOWS)
    return FlowService(database, service)


def counted(calls: list[Any]) -> Counter[str]:
    return Counter(map(str, calls))


async def test_a_failed_run_continues_from_the_step_that_failed(
    database: Database, service: JobService, caller: JobCaller, flows: FlowService, tmp_path: Path
) -> None:
    async with running(service, database, tmp_path) as runner:
        run_id = await submit(caller, "steps@1")
        assert (await finished(caller, run_id)).status is Status.FAILED
        before = counted(runner.calls)
        # The cause of the failure is removed.
        await execute(
            database, "UPDATE job SET input = '\"mended\"' WHERE parent_id = $1 AND input::text LIKE '%fail%'", run_id
        )

        assert not (await flows.retry(caller.tenant, run_id)).status.finished

        assert decoded(await finished(caller, run_id)) == [1, 5, [2, "mended"], 3]
        again = counted(runner.calls) - before
    assert again["1"] == 0, "a step that completed is not executed again"
    assert again["mended"] == 1
    assert before["2"] + again["2"] <= 2
    stats = await service.of(caller.tenant).stats()
    (queue,) = [one for one in stats.queues if one.model_profile == "steps@1"]
    assert (queue.failed, queue.completed, queue.pending, queue.running, queue.waiting) == (0, 1, 0, 0, 0)


async def test_only_failed_runs_are_retried(
    database: Database, service: JobService, caller: JobCaller, flows: FlowService, tmp_path: Path
) -> None:
    async with running(service, database, tmp_path):
        run_id = await submit(caller, "good@1")
        await finished(caller, run_id)
        with pytest.raises(WrongState, match="is completed; only failed runs"):
            await flows.retry(caller.tenant, run_id)


async def test_a_run_is_rerun_from_a_step_with_a_different_input(
    database: Database, service: JobService, caller: JobCaller, flows: FlowService, tmp_path: Path
) -> None:
    async with running(service, database, tmp_path) as runner:
        run_id = await submit(caller, "good@1")
        assert decoded(await finished(caller, run_id)) == [1, 2, 3]

        job = await flows._forking.rerun(
            caller.tenant, await flows.run(caller.tenant, run_id), step=2, value=Raw(b'{"last": 10}'), key_id=""
        )

        assert job.id != run_id
        assert decoded(await finished(caller, job.id)) == [1, 2, 13]
        assert decoded(await finished(caller, run_id)) == [1, 2, 3], "the first run stays as it was"
    assert counted(runner.calls) == {"1": 1, "2": 1, "3": 1, "13": 1}
    assert await query(database, "SELECT count(*) FROM flow_step WHERE run_id = $1", job.id) == [(3,)]
