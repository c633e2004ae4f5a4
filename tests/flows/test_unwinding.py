"""Evicted runs end their tasks safely: nothing of theirs runs later, or in another run."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from penstock.flows import flow, run
from penstock.flows.kernel.errors import Stopped
from penstock.flows.kernel.resident import Run
from tests.support.flow_drivers import Driver

SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


def evicted(code: Any) -> None:
    """Begin a run, evict it, and collect what is left of it."""
    driver = Driver(code, replays=False)
    driver.turn()
    resident = driver.resident
    assert isinstance(resident, Run)
    resident.unwind()
    steps = resident.ledger.count
    del driver
    gc.collect()
    assert resident.ledger.count == steps, "no step is issued while a run is evicted"
    assert not resident.ledger.draft.dropped


async def test_finally_blocks_run_and_cannot_use_run() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        try:
            await run.call("m", {})
        finally:
            SEEN.append("finally")
            with suppress(Stopped):
                await run.call("tidy", {})
            with suppress(Stopped):
                run.publish("tidied")
            with suppress(Stopped):
                await asyncio.sleep(1)
            SEEN.append("end")

    evicted(f)
    assert SEEN == ["finally", "end"]


async def test_tasks_groups_and_generators_end() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await run.call("m", {})
            yield 2
        finally:
            SEEN.append("generator")

    async def waits(name: str) -> None:
        try:
            await run.call("m", {})
        finally:
            SEEN.append(name)

    @flow(name="f", version="1")
    async def f() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits("one"))
            group.create_task(waits("two"))
            async for _ in numbers():
                pass

    evicted(f)
    assert sorted(SEEN) == ["generator", "one", "two"]


async def test_code_that_catches_everything_is_given_up() -> None:
    refuses = True

    @flow(name="f", version="1")
    async def f() -> None:
        while refuses:
            try:
                await run.wait_signal("s")
            except BaseException as error:  # noqa: BLE001  (as careless code does)
                SEEN.append(type(error))

    driver = Driver(f, replays=False)
    driver.turn()
    resident = driver.resident
    assert isinstance(resident, Run)
    resident.unwind()
    assert 0 < len(SEEN) < 1000
    refuses = False
    del driver, resident
    gc.collect()  # now the coroutine ends


async def test_a_left_generator_is_closed_in_its_own_run() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            SEEN.append(run.run_id())

    @flow(name="f", version="1")
    async def f() -> None:
        async for _ in numbers():
            break
        await run.call("m", {})

    driver = Driver(f, replays=False)
    driver.turn()
    assert [driver.run.run_id] == SEEN
    assert driver.finish() is None


async def test_two_runs_do_not_see_each_other() -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        before = run.run_id()
        await run.call("m", {})
        return [before == run.run_id(), len(asyncio.all_tasks())]

    one, other = Driver(f, replays=False), Driver(f, replays=False)
    one.turn()
    other.turn()
    assert one.finish() == [True, 1]
    assert other.finish() == [True, 1]
