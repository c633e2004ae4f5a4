"""Runs are executed end to end: claimed, given to the process of their code, stored, parked and woken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from penstock.flows.process.program import Limits
from penstock.flows.sql import store as flow_store
from penstock.jobs.announcements import announce_mail
from penstock.jobs.job import Job
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.support.databases import query
from tests.support.flow_runners import Running, running
from tests.support.jobs import JobCaller
from tests.support.waiting import until

Start = Callable[..., Awaitable["Running"]]


@pytest.fixture
async def start(
    module_database_url: str, service: JobService, database: Database, tmp_path: Path
) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(
            *files: str, linger: float = 0.3, limits: Limits | None = None, jobs: bool = True, resident: int = 100
        ) -> Running:
            for number, text in enumerate(files):
                (tmp_path / f"flows{number}.py").write_text(text)
            return await stack.enter_async_context(
                running(service, database, tmp_path, linger=linger, limits=limits, jobs=jobs, resident=resident)
            )

        yield started


async def submit(caller: JobCaller, flow: str, value: Any = None) -> UUID:
    job = await caller.submit(
        task_type="flow", model_profile=flow, input=Raw(msgspec.json.encode({} if value is None else value))
    )
    return job.id


async def finished(caller: JobCaller, run_id: UUID) -> Job:
    async def over() -> bool:
        return (await caller.get(run_id)).status.finished

    await until(over, "the run has ended")
    return await caller.get(run_id)


def decoded(job: Job) -> Any:
    assert job.status is Status.COMPLETED, job.error
    assert job.result is not None
    return msgspec.json.decode(job.result)


CALLS = """
import asyncio
from penstock.flows import flow, run

@flow(name="three", version="1")
async def three() -> list:
    one = await run.call("echo", 1)
    two = await run.side_effect(lambda: one + 1)
    more = await run.gather(*[run.call("echo", two + i) for i in range(5)])
    return [one, two, more]

@flow(name="parent", version="1")
async def parent() -> list:
    return [await run.call(three, {}), "done"]

@flow(name="failing", version="1")
async def failing() -> str:
    try:
        await run.call("echo", {"fail": True})
    except Exception as error:
        return f"caught {error}"
    return "not failed"

@flow(name="signalled", version="1")
async def signalled() -> list:
    return [await run.wait_signal("go"), await run.wait_signal("go")]

@flow(name="cancelled", version="1")
async def cancelled() -> str:
    try:
        await run.wait_signal("never")
    finally:
        await run.shielded(run.call("echo", "cleanup"))
    return "x"
"""


@pytest.mark.parametrize("linger", [0.0, 1.0], ids=["parked at once", "resident"])
async def test_calls_and_values_give_the_result(start: Start, caller: JobCaller, linger: float) -> None:
    running = await start(CALLS, linger=linger)

    job = await finished(caller, await submit(caller, "three@1"))

    assert decoded(job) == [1, 2, [2, 3, 4, 5, 6]]
    assert sorted(running.calls) == [1, 2, 3, 4, 5, 6]
    assert job.attempt == 1


async def test_a_flow_calls_a_flow(start: Start, caller: JobCaller) -> None:
    await start(CALLS, linger=0)

    assert decoded(await finished(caller, await submit(caller, "parent@1"))) == [[1, 2, [2, 3, 4, 5, 6]], "done"]


async def test_the_failure_of_a_child_reaches_the_code(start: Start, caller: JobCaller) -> None:
    await start(CALLS)

    assert "it is to fail" in decoded(await finished(caller, await submit(caller, "failing@1")))


async def test_a_waiting_run_holds_no_lease_and_no_place(start: Start, caller: JobCaller, database: Database) -> None:
    running = await start(CALLS, linger=0, jobs=False)
    run_id = await submit(caller, "three@1")

    async def waits() -> bool:
        return await caller.status(run_id) is Status.WAITING

    await until(waits, "the run is parked")
    await until(lambda: not running.runner.process.resident, "it has left the memory of the process")
    assert await query(database, "SELECT count(*) FROM lease WHERE tenant_id = $1", caller.tenant) == [(0,)]


async def test_signals_come_in_order_and_wake_a_parked_run(start: Start, caller: JobCaller, database: Database) -> None:
    run_id = await submit(caller, "signalled@1")
    async with database.acquire() as connection:  # before any runner has seen it
        await flow_store.signal(connection, caller.tenant, run_id, "go", Raw(b"1"), key="a")
        again = await flow_store.signal(connection, caller.tenant, run_id, "go", Raw(b"1"), key="a")
        assert again.repeated
    await start(CALLS, linger=0)

    async def waits() -> bool:
        return await caller.status(run_id) is Status.WAITING

    await until(waits, "the run is parked")
    async with database.acquire() as connection:
        told = await flow_store.signal(connection, caller.tenant, run_id, "go", Raw(b"2"), key=None)
    announce_mail(caller.service.wakeups, caller.tenant, told.mailed)
    assert decoded(await finished(caller, run_id)) == [1, 2]
    async with database.acquire() as connection:
        late = await flow_store.signal(connection, caller.tenant, run_id, "go", Raw(b"3"), key=None)
    assert late.id is None, "a run that has ended takes no signals"


async def test_a_cancelled_run_cleans_up(start: Start, caller: JobCaller) -> None:
    running = await start(CALLS, linger=0)
    run_id = await submit(caller, "cancelled@1")

    async def waits() -> bool:
        return await caller.status(run_id) is Status.WAITING

    await until(waits, "the run is parked")
    await caller.cancel(run_id)

    job = await finished(caller, run_id)
    assert job.status is Status.CANCELLED
    assert running.calls.count("cleanup") == 1  # runs that earlier tests have left make calls, too


EFFECTS = """
import asyncio
from pathlib import Path
from penstock.flows import flow, run

FOLDER = Path(__file__).parent

async def waits() -> str:
    with open(FOLDER / "effects", "a") as file:
        file.write("waits\\n")
    while not (FOLDER / "signalled").exists():
        await asyncio.sleep(0.005)
    return "waited"

def quick(number: int) -> int:
    with open(FOLDER / "effects", "a") as file:
        file.write(f"quick {number}\\n")
    return number

@flow(name="overtaken", version="1")
async def overtaken() -> list:
    found = [await run.side_effect(waits)]
    for number in range(3):
        found.append(await run.side_effect(quick, number))
    return [*found, await run.wait_signal("go")]

@flow(name="ends", version="1")
async def ends() -> list:
    return [await run.side_effect(waits)]
"""


@pytest.mark.parametrize(
    ("flow", "result", "calls"),
    [
        ("overtaken@1", ["waited", 0, 1, 2, 7], ["waits", "quick 0", "quick 1", "quick 2"]),
        ("ends@1", ["waited"], ["waits"]),
    ],
)
async def test_a_signal_that_comes_before_a_recorded_value_repeats_no_function(
    start: Start,
    caller: JobCaller,
    database: Database,
    tmp_path: Path,
    flow: str,
    result: list[Any],
    calls: list[str],
) -> None:
    await start(EFFECTS)
    run_id = await submit(caller, flow)
    effects = tmp_path / "effects"
    await until(effects.exists, "the function was called")
    async with database.acquire() as connection:
        await flow_store.signal(connection, caller.tenant, run_id, "go", Raw(b"7"), key=None)
    (tmp_path / "signalled").touch()
    assert decoded(await finished(caller, run_id)) == result
    assert effects.read_text().splitlines() == calls
