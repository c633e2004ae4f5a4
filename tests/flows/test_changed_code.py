"""Code that has changed under an unfinished run: it continues, or is held with both sides shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.flows import flow, run
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import Completed, Held, StoredTurn
from penstock.flows.kernel.replay import replay
from tests.support.flow_drivers import Driver
from tests.support.flow_stores import START, StoredRun


@flow(name="f", version="1")
async def before() -> str:
    await run.call("one", {})
    await run.call("two", {"length": 1})
    await run.wait_signal("go")
    return "before"


def begun(code: Flow[..., Any] = before, turns: int = 2) -> StoredRun:
    """Return a run of the code that has made some turns, with unread mail for the next one."""
    driver = Driver(code)
    for _ in range(turns):
        driver.turn()
        for step in driver.run.open():
            if step.kind == "call":
                driver.run.complete(step.no, step.name)
    return driver.run


def continued(stored: StoredRun, code: Flow[..., Any]) -> Any:
    """Return the outcome of the next turn, made by other code."""
    driver = Driver(code)
    driver.run = stored
    return driver.turn().outcome


async def test_the_same_code_continues() -> None:
    assert continued(begun(), before) is None


async def test_a_renamed_step_holds_the_run_and_shows_both_sides() -> None:
    @flow(name="f", version="1")
    async def after() -> None:
        await run.call("one", {})
        await run.call("three", {})

    stored = begun()
    held = continued(stored, after)
    assert isinstance(held, Held)
    assert (held.reason, held.no) == ("changed", 1)
    assert (held.stored, held.found) == ("call of model two (key two#1)", "call of model three (key three#1)")
    assert held.message.startswith(
        "the code does not repeat this run: at step 1 its history has call of model two (key two#1), but the code has "
        "call of model three (key three#1). Restore the code"
    )
    assert len(stored.turns) == 2, "nothing of the turn is stored"
    assert continued(stored, before) is None, "the run continues with the code that it began with"


async def test_steps_in_another_order_hold_the_run() -> None:
    @flow(name="f", version="1")
    async def after() -> None:
        await run.call("two", {})
        await run.call("one", {})

    held = continued(begun(), after)
    assert (held.no, held.stored) == (0, "call of model one (key one#1)")


async def test_another_kind_or_target_holds_the_run() -> None:
    @flow(name="f", version="1")
    async def slept() -> None:
        await run.sleep(1, key="one")

    @flow(name="f", version="1")
    async def queued() -> None:
        await run.call(run.queue("one", "x"), {})

    assert continued(begun(), slept).found == "timer sleep (key one)"
    assert continued(begun(), queued).found == "call of queue one/x (key one/x#1)"


async def test_a_missing_step_holds_the_run() -> None:
    @flow(name="f", version="1")
    async def waits() -> None:
        await run.call("one", {})
        await run.wait_signal("go")

    @flow(name="f", version="1")
    async def ends() -> None:
        await run.call("one", {})

    @flow(name="f", version="1")
    async def event() -> None:
        await run.call("one", {})
        await asyncio.Event().wait()

    assert continued(begun(), waits).found == "wait for signal go (key go#1)"
    assert continued(begun(), ends).found == "no step: it has ended (completed)"
    assert continued(begun(), event).found == "no step: it waits"


async def test_an_additional_step_before_the_next_mail_holds_the_run() -> None:
    @flow(name="f", version="1")
    async def after() -> None:
        await run.call("one", {})
        run.progress(0.5)
        await run.call("two", {})

    @flow(name="f", version="1")
    async def beside() -> None:
        await run.call("one", {})
        run.start("two", {"length": 1})
        run.publish("more")

    assert continued(begun(), after).found == "progress (key progress#1)"
    held = continued(begun(), beside)
    assert (held.no, held.stored) == (2, "no further step before the next mail")
    assert held.found == "publish more (key more#1)"


async def test_a_different_input_of_a_stored_step_is_a_warning() -> None:
    @flow(name="f", version="1")
    async def after() -> str:
        await run.call("one", {})
        await run.call("two", {"length": 2})
        await run.wait_signal("go")
        return "after"

    driver = Driver(after)
    driver.run = begun()
    turn = driver.turn()
    assert turn.outcome is None
    assert turn.warnings == ["step two#1 has a different input than when it was issued; its stored result is used"]


async def test_code_that_fails_where_history_continues_holds_the_run() -> None:
    @flow(name="f", version="1")
    async def after() -> None:
        raise LookupError

    assert continued(begun(), after).found == "no step: it has ended (failed)"


async def test_code_that_catches_everything_is_held_all_the_same() -> None:
    @flow(name="f", version="1")
    async def after() -> str:
        try:
            await run.call("other", {})
        except BaseException:  # noqa: BLE001  (as careless code does)
            await run.call("one", {})
        return "swallowed"

    assert isinstance(continued(begun(), after), Held)


async def test_code_that_ends_before_mail_that_history_waits_for_is_held() -> None:
    @flow(name="f", version="1")
    async def after() -> None:
        await run.call("one", {})
        run.start("two", {"length": 1})

    stored = begun()
    stored.unread = []
    assert isinstance(continued(stored, after), Held)


@flow(name="f", version="1")
async def patched() -> str:
    await run.call("one", {})
    if run.patched("new"):
        await run.call("inserted", {})
    await run.call("two", {"length": 1})
    await run.wait_signal("go")
    if run.patched("new"):
        await run.call("at the end", {})
    return "patched"


async def test_a_run_that_has_passed_a_patch_keeps_to_the_old_path() -> None:
    driver = Driver(patched)
    driver.run = begun()
    driver.turn()
    driver.run.signal("go")
    assert driver.finish() == "patched"
    assert driver.run.keys() == ["one#1", "two#1", "go#1"]


async def test_a_run_that_has_not_reached_a_patch_takes_the_new_path_and_keeps_to_it() -> None:
    driver = Driver(patched)
    driver.run = begun(turns=1)
    turn = driver.turn()
    assert turn.patched == ["new"]
    driver.run.signal("go")
    assert driver.finish() == "patched"
    assert driver.run.keys() == ["one#1", "inserted#1", "two#1", "go#1", "at the end#1"]


async def test_a_run_that_took_the_new_path_is_held_by_the_old_code() -> None:
    driver = Driver(patched)
    driver.run = begun(turns=1)
    driver.turn()
    driver.run.complete(1, None)
    held = continued(driver.run, before)
    assert (held.stored, held.found) == (
        "call of model inserted (key inserted#1)",
        "call of model two (key two#1)",
    )


async def test_a_history_that_lacks_mail_is_broken() -> None:
    stored = begun()
    stored.consumed.clear()
    held = continued(stored, before)
    assert (held.reason, held.message) == ("broken", "the history of the run lacks its mail 1")


async def test_replay_finds_what_an_unfinished_run_would_be_held_for() -> None:
    @flow(name="f", version="1")
    async def after() -> str:
        await run.call("one", {"changed": True})
        await run.call("two", {"length": 1})
        await run.call("three", {})
        return "after"

    stored = begun()
    good = replay(before, stored.history())
    assert (good.held, good.outcome, good.changed_inputs) == (None, None, [])
    changed = replay(after, stored.history())
    assert (changed.held, changed.changed_inputs) == (None, ["one#1"])
    driver = Driver(before)
    driver.run = stored
    driver.turn()
    held = replay(after, stored.history()).held
    assert held is not None
    assert held.found == "call of model three (key three#1)"


async def test_replay_of_an_ended_run_returns_its_outcome() -> None:
    driver = Driver(before)
    driver.run = begun()
    driver.turn()
    driver.run.signal("go")
    driver.finish()
    found = replay(before, driver.run.history(), ended=True)
    assert isinstance(found.outcome, Completed)
    assert found.held is None
    assert replay(before, driver.run.history()).held is not None


async def test_replay_does_not_call_recorded_functions() -> None:
    called = 0

    def count() -> int:
        nonlocal called
        called += 1
        return called

    @flow(name="f", version="1")
    async def counts() -> int:
        return await run.side_effect(count) + await run.side_effect(count)  # type: ignore[no-any-return]

    driver = Driver(counts)
    assert driver.finish() == 3
    assert replay(counts, driver.run.history(), ended=True, strict=True).held is None
    assert called == 2


async def test_replay_finds_code_that_depends_on_what_history_does_not_hold() -> None:
    runs = 0

    @flow(name="f", version="1")
    async def fickle() -> None:
        nonlocal runs
        runs += 1
        await run.call("m", {"run": runs})
        await run.wait_signal("go")

    driver = Driver(fickle, replays=False)
    driver.turn()
    assert replay(fickle, driver.run.history()).changed_inputs == ["m#1"]
    held = replay(fickle, driver.run.history(), strict=True).held
    assert held is not None
    assert "something in it differs between replays" in held.message


@pytest.mark.parametrize("loop", [0, 2])
async def test_another_version_of_the_loop_is_refused(loop: int) -> None:
    import msgspec

    from penstock.flows.kernel.resident import Run

    history = msgspec.structs.replace(begun().history(), loop=loop)
    resident = Run(before, history)
    resident.begin([])
    outcome = resident.turn().outcome
    assert isinstance(outcome, Held)
    assert outcome.message == f"the run needs version {loop} of the loop, not 1"


def test_a_stored_turn_begins_at_the_time_of_its_mail() -> None:
    assert begun().turns[0] == StoredTurn(number=0, at=START, first_no=0)
