"""SIGKILL between any two lines of a flow: the run ends with the same result, and each of its steps is issued once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.flows.kernel.records import Completed, StepKind
from penstock.flows.process.errors import NotResident, ProgramLost
from tests.flows.conftest import Start, Write
from tests.support.flow_stores import StoredRun, complete_all

FLOW = """
import asyncio
import os
import signal
from pathlib import Path

from penstock.flows import flow, run

MARKS = str(Path(__file__).parents[1])

def die(place: int) -> None:
    try:
        os.mkdir(f"{MARKS}/died at {place}")
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

async def effect(place: int, number: int) -> str:
    await asyncio.sleep(0)
    with open(f"{MARKS}/effects of {place}", "a") as file:
        file.write(f"{number}\\n")
    return f"effect {number}"

def quick(place: int, number: int) -> str:
    with open(f"{MARKS}/effects of {place}", "a") as file:
        file.write(f"{number}\\n")
    return f"effect {number}"

async def branch(place: int, number: int) -> int:
    doubled = await run.call("double", number)
    if place == 4 and number == 2:
        die(place)
    return doubled + await run.call("double", doubled)

@flow(name="mortal", version="1")
async def mortal(place: int) -> list:
    if place == 0:
        die(place)
    first = await run.call("double", 1)
    if place == 1:
        die(place)
    recorded = await run.side_effect(effect, place, 1)
    if place == 2:
        die(place)
    recorded += await run.side_effect(quick, place, 2)
    if place == 7:
        die(place)
    recorded += await run.side_effect(quick, place, 3)
    if place == 8:
        die(place)
    both = run.gather(branch(place, 2), branch(place, 3))
    if place == 3:
        die(place)
    more = await both
    if place == 5:
        die(place)
    run.publish("almost")
    await run.sleep(1)
    if place == 6:
        die(place)
    return [first, recorded, *more, str(run.uuid())]
"""
PLACES = 9
EFFECTS = 3


async def completed(start: Start, run: StoredRun) -> Any:
    """Return the result of a run, however often its process dies."""
    process = await start()
    while run.outcome is None:
        try:
            if run.run_id in process.resident:
                turn = await process.deliver(run.run_id, run.unread)
            else:
                turn = await process.begin(run.history(), run.unread)
        except (ProgramLost, NotResident):
            continue
        run.commit(turn)
        complete_all(run, lambda step: 2 * msgspec.json.decode(step.input or b"0"))
        if not run.unread and run.outcome is None:
            for step in run.open(StepKind.TIMER):
                run.fire(step.no)
    assert isinstance(run.outcome, Completed)
    return msgspec.json.decode(run.outcome.result)


async def undisturbed(start: Start, run: StoredRun) -> tuple[Any, list[str]]:
    calm = StoredRun("mortal", {"place": PLACES}, run_id=run.run_id)
    return await completed(start, calm), calm.keys()


@pytest.mark.parametrize("place", range(PLACES))
async def test_a_killed_run_ends_as_one_that_was_not(start: Start, write: Write, tmp_path: Path, place: int) -> None:
    write("mortal.py", FLOW)
    run = StoredRun("mortal", {"place": place})
    result = await completed(start, run)
    (died,) = tmp_path.rglob("died at *")
    assert died.name == f"died at {place}"
    (effects,) = tmp_path.rglob(f"effects of {place}")
    assert effects.read_text().split() == [str(number) for number in range(1, EFFECTS + 1)], "each has run once"
    assert (result, run.keys()) == await undisturbed(start, run)
