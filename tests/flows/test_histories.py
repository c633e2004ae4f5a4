"""Random programs whose steps end in a random order are repeated by their histories, wholly and from every beginning.

A program is a tree of what flow code can wait for. The driver delivers what comes in random order and in random
portions, with and without a replay before each turn. The result is compared with what the program means.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.failures import Category
from penstock.flows import flow, run
from penstock.flows.kernel.records import Cancelled, Completed, Failed, Fault, Held, MailKind, StepKind
from penstock.flows.kernel.replay import replay
from tests.support.flow_drivers import Driver

FAULT = Fault(category=Category.PROVIDER_ERROR, message="no")


@dataclass(frozen=True)
class Program:
    """One node: ``kind``, the name of what it waits for, and the programs inside."""

    kind: str
    inside: tuple[Program, ...] = ()
    number: int = 0


KINDS = st.sampled_from(["call", "started", "shared", "sleep", "signal", "record", "map", "publish"])
LEAVES = st.builds(Program, KINDS, st.just(()), st.integers(0, 2))


def trees(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=4).map(tuple)
    kinds = [
        "sequence",
        "each",
        "gather",
        "gather",
        "race",
        "their gather",
        "wait",
        "group",
        "completed",
        "timeout",
        "tolerant",
    ]
    return st.builds(Program, st.sampled_from(kinds), several, st.integers(1, 3))


PROGRAMS = st.recursive(LEAVES, trees, max_leaves=12)


async def perform(program: Program) -> Any:
    """Execute a program as flow code; return what has happened."""
    inside = program.inside
    match program.kind:
        case "call":
            return await run.call(f"m{program.number}", program.number)
        case "started":
            first, second = run.start("s", program.number), run.start("s", program.number + 1)
            return [await second, await first]
        case "shared":
            one, two, three = (run.start("h", number) for number in range(3))
            several, others = run.gather(one, two, three, one), run.gather(two, run.call("h", 3))
            return [await run.gather(several, others, perform_then(two)), await one]
        case "sleep":
            await run.sleep(program.number + 1)
            return "slept"
        case "signal":
            return await run.wait_signal(f"signal{program.number}")
        case "record":
            return await run.side_effect(random.random)
        case "map":
            return await run.map("items", range(program.number))
        case "publish":
            run.publish("event", {"id": run.uuid()})
            return run.random().random()
        case "sequence":
            return [await perform(one) for one in inside]
        case "each":
            return await run.map(perform, inside, limit=program.number)
        case "gather":
            return await run.gather(*map(perform, inside))
        case "race":
            return list(await run.race(*map(perform, inside)))
        case "their gather":
            return await asyncio.gather(*map(perform, inside), return_exceptions=True)
        case "wait":
            tasks = [asyncio.ensure_future(perform(one)) for one in inside]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            found = [await outcome(task) for task in done]
            return found + [await outcome(task) for task in pending]
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(perform(one)) for one in inside]
            return [task.result() for task in tasks]
        case "completed":
            return [await outcome(one) for one in asyncio.as_completed(map(perform, inside))]
        case "timeout":
            try:
                async with asyncio.timeout(program.number):
                    return [await perform(one) for one in inside]
            except TimeoutError:
                return "late"
        case "tolerant":
            return [await outcome(perform(one)) for one in inside]
    raise AssertionError(program.kind)


async def perform_then(handle: Any) -> Any:
    await handle
    return await run.call("then", {})


async def outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001  (the outcome of a program is part of its result)
        return f"failed: {type(error).__name__}"


@flow(name="random", version="1")
async def performs(seed: int) -> Any:
    return await perform(_programs[seed])


_programs: dict[int, Program] = {}


def something_comes(driver: Driver, chance: random.Random, *, failures: bool) -> None:
    """Choose one of the possible deliveries at random, and make it."""
    steps = driver.run.open(StepKind.CALL, StepKind.MAP, StepKind.TIMER, StepKind.SIGNAL)
    if not steps:
        return
    step = chance.choice(steps)
    match step.kind:
        case StepKind.TIMER:
            driver.run.fire(step.no)
        case StepKind.SIGNAL:
            driver.run.signal(step.name, chance.random())
        case StepKind.MAP:
            items = step.items or []
            driver.run.complete(step.no, [{"status": "completed", "value": chance.random()} for _ in items])
        case _ if failures and chance.random() < 0.2:
            driver.run.fail(step.no, FAULT)
        case _:
            size = chance.choice([1, 20_000])  # order must not depend on sizes
            driver.run.complete(step.no, f"{chance.random()}" + "x" * size)


def executed(program: Program, seed: int, *, replays: bool, cancels: bool, failures: bool = True) -> Driver:
    """Return the driver of a run that has ended."""
    _programs[seed] = program
    chance = random.Random(seed)
    driver = Driver(performs, {"seed": seed}, replays=replays, run_id=UUID(int=seed))
    driver.turn()
    for _ in range(400):
        if driver.run.outcome is not None:
            return driver
        for _ in range(chance.randint(1, 4)):
            something_comes(driver, chance, failures=failures)
        if cancels and chance.random() < 0.2:
            driver.run.cancel()
        if driver.run.unread:
            held = driver.turn().outcome
            assert not isinstance(held, Held), held
        else:
            assert driver.run.open(), "the run waits for something"
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("cancels", [False, True], ids=["", "cancelled"])
@settings(max_examples=150)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_a_history_repeats_its_run_wholly_and_from_every_beginning(cancels: bool, program: Program, seed: int) -> None:
    driver = executed(program, seed, replays=True, cancels=cancels)
    replayed = replay(performs, driver.run.history(), ended=True, strict=True)
    assert replayed.held is None
    assert type(replayed.outcome) is type(driver.run.outcome)
    match replayed.outcome, driver.run.outcome:
        case Completed() as one, Completed() as other:
            assert bytes(one.result) == bytes(other.result)
        case Failed() as one, Failed() as other:
            assert one.fault == other.fault
        case one, other:
            assert isinstance(one, Cancelled)


@settings(max_examples=100)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_resident_and_replayed_runs_are_the_same(program: Program, seed: int) -> None:
    """What comes is chosen by the seed and by what is open, so the runs stay together only if each turn is equal."""
    random.seed(seed)
    resident = executed(program, seed, replays=False, cancels=False)
    random.seed(seed)
    replayed = executed(program, seed, replays=True, cancels=False)
    assert _apart(resident) == _apart(replayed)
    assert [turn.taken for turn in resident.run.turns] == [turn.taken for turn in replayed.run.turns]
    assert type(resident.run.outcome) is type(replayed.run.outcome)


@settings(max_examples=100)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_the_size_of_portions_of_mail_makes_no_difference(program: Program, seed: int) -> None:
    """The same mail in the same order, one piece a turn, leads to the same steps and result."""
    driver = executed(program, seed, replays=False, cancels=False)
    mail = driver.run.consumed
    single = Driver(performs, {"seed": seed}, replays=True, ahead=False, run_id=UUID(int=seed))
    single.turn()
    single.run.unread.clear()
    for one in mail:
        single.run.unread.append(one)
        held = single.turn().outcome
        assert not isinstance(held, Held), held
        single.run.unread = [kept for kept in single.run.unread if kept.kind is not MailKind.ENDED]
    assert [step.key for step in single.run.steps] == [step.key for step in driver.run.steps]
    assert type(single.run.outcome) is type(driver.run.outcome)


@settings(max_examples=150)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_a_run_continues_only_when_as_many_steps_have_ended_as_it_needs(program: Program, seed: int) -> None:
    """With fewer ends than ``need``, all of them successes, the code issues nothing and does not end."""
    _programs[seed] = program
    chance = random.Random(seed)
    driver = Driver(performs, {"seed": seed}, run_id=UUID(int=seed))
    turn = driver.turn()
    for _ in range(200):
        if driver.run.outcome is not None:
            return
        before = len(driver.run.unread)
        ends = driver.run.open(StepKind.CALL, StepKind.MAP)
        if turn.need > 1 and len(ends) + before >= turn.need:
            for step in chance.sample(ends, max(0, turn.need - 1 - before)):
                value: Any = [{"status": "completed", "value": 0} for _ in step.items or []]
                driver.run.complete(step.no, value if step.kind is StepKind.MAP else "x")
            if driver.run.unread and len(driver.run.unread) < turn.need:
                early = driver.turn()
                assert (early.steps, early.dropped, early.outcome) == ([], [], None)
                turn = early
                continue
        something_comes(driver, chance, failures=False)
        if driver.run.unread:
            turn = driver.turn()


def _apart(driver: Driver) -> list[tuple[Any, ...]]:
    return [(step.no, step.key, step.kind, step.name, bytes(step.input or b"")) for step in driver.run.steps]
