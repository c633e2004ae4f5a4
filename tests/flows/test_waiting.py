"""What wakes a run, what it drops, and how it is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from penstock.failures import Category
from penstock.flows import flow, run
from penstock.flows.kernel.records import Cancelled, Failed, Fault, Held, Status, StepKind
from tests.support.flow_drivers import Driver

FAULT = Fault(category=Category.PROVIDER_ERROR, message="no")


# Waking once


async def test_a_gather_of_calls_needs_all_of_them() -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        return await run.gather(*(run.call("m", number) for number in range(5)))

    driver = Driver(f)
    assert driver.turn().need == 5
    driver.run.complete(0, 0)
    assert driver.turn().need == 4


async def test_the_smallest_group_decides() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        async def group(count: int) -> None:
            await run.gather(*(run.call("m", number) for number in range(count)))
            await run.call("after", {})

        await run.gather(group(7), group(3))

    assert Driver(f).turn().need == 3


async def test_one_end_suffices_for_a_race_a_plain_wait_and_asyncio() -> None:
    @flow(name="f", version="1")
    async def race() -> None:
        await run.race(run.call("m", 1), run.call("m", 2))

    @flow(name="f", version="1")
    async def plain() -> None:
        other = asyncio.ensure_future(run.gather(run.call("m", 1), run.call("m", 2)))
        await run.call("m", 3)
        await other

    @flow(name="f", version="1")
    async def theirs() -> None:
        await asyncio.gather(run.call("m", 1), run.call("m", 2))

    assert [Driver(code).turn().need for code in (race, plain, theirs)] == [1, 1, 1]


async def test_a_handle_that_several_wait_for_wakes_the_run_alone() -> None:
    @flow(name="f", version="1")
    async def twice() -> None:
        handle = run.start("m", 1)
        await run.gather(handle, handle, run.call("m", 2))

    @flow(name="f", version="1")
    async def two_groups() -> None:
        first, second, third = (run.start("m", number) for number in range(3))
        await run.gather(run.gather(first, second, third), run.gather(first))

    @flow(name="f", version="1")
    async def beside() -> None:
        async def waits(handle: Any) -> None:
            await handle
            await run.call("after", {})

        first, second = (run.start("m", number) for number in range(2))
        await run.gather(run.gather(first, second), waits(first))

    assert [Driver(code).turn().need for code in (twice, two_groups, beside)] == [2, 1, 1]


async def test_handles_that_nothing_awaits_do_not_count() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        run.start("m", 0)
        await run.gather(run.call("m", 1), run.call("m", 2))

    assert Driver(f).turn().need == 2


async def test_a_run_lingers_for_calls_only() -> None:
    @flow(name="f", version="1")
    async def f(what: str) -> None:
        match what:
            case "call":
                await run.call("m", {})
            case "call with timeout":
                async with asyncio.timeout(60):
                    await run.call("m", {})
            case "small map":
                await run.map("m", range(64))
            case "large map":
                await run.map("m", range(65))
            case "sleep":
                await run.sleep(1)
            case "signal":
                await run.wait_signal("s")
            case "event":
                await run.wait_event("e")
            case "record":
                await run.side_effect(int)

    lingers = {
        what: Driver(f, {"what": what}, ahead=False).turn().linger
        for what in ("call", "call with timeout", "small map", "large map", "sleep", "signal", "event", "record")
    }
    assert [what for what, linger in lingers.items() if linger] == ["call", "call with timeout", "small map", "record"]


# Giving up


async def test_a_timeout_drops_what_it_waited_for_in_the_same_turn() -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        try:
            async with asyncio.timeout(10):
                await run.call("slow", {})
        except TimeoutError:
            return "late"
        return "in time"

    late = Driver(f)
    late.turn()
    timer, call = late.run.steps
    assert (timer.kind, call.kind) == (StepKind.TIMER, StepKind.CALL)
    late.run.fire(timer.no)
    assert late.turn().dropped == [call.no]
    in_time = Driver(f)
    in_time.turn()
    in_time.run.complete(call.no, None)
    assert in_time.turn().dropped == [timer.no]


async def test_the_late_end_of_a_dropped_step_changes_nothing() -> None:
    @flow(name="f", version="1")
    async def f() -> Any:
        await run.race(run.call("slow", 1), run.call("fast", 2))
        return await run.call("after", {})

    driver = Driver(f)
    driver.turn()
    driver.run.complete(1, "fast")
    driver.turn()
    driver.run.complete(0, "slow")
    turn = driver.turn()
    assert (turn.taken, turn.steps, turn.outcome) == ([2], [], None)
    assert driver.finish(lambda _step: "done") == "done"


# Signals and events


async def test_signals_come_in_order_also_before_the_wait() -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        await run.call("m", {})
        found = [await run.wait_signal("s"), await run.wait_signal("s")]
        return [*found, await run.wait_signal("other", returns=int)]

    driver = Driver(f)
    driver.run.signal("s", "before the start")
    driver.turn()
    driver.run.signal("s", "during the call")
    driver.run.signal("other", 3)
    driver.run.complete(0, None)
    assert driver.finish() == ["before the start", "during the call", 3]


async def test_a_signal_that_nothing_waits_for_is_kept() -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        with suppress(TimeoutError):
            await run.wait_signal("s", timeout=5)
        await run.call("m", {})
        return await run.wait_signal("s", timeout=5)  # type: ignore[no-any-return]

    driver = Driver(f)
    driver.turn()
    driver.run.fire(0)
    driver.run.signal("s", "late")
    assert driver.finish() == "late"


async def test_an_event_ends_its_wait_with_its_data() -> None:
    @flow(name="f", version="1")
    async def f() -> Any:
        return await run.wait_event("job.completed", {"owner_ref": "x"})

    driver = Driver(f)
    (step,) = driver.turn().steps
    assert step.input is not None
    assert (step.kind, step.name, bytes(step.input)) == (StepKind.EVENT, "job.completed", b'{"owner_ref":"x"}')
    driver.run.complete(0, {"id": 1})
    assert driver.finish() == {"id": 1}


async def test_hook_sleep_and_step_at_one_instant_in_a_loop_that_reuses_the_sleep() -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = []
        sleep = asyncio.ensure_future(run.sleep(10))
        signal = asyncio.ensure_future(run.wait_signal("s"))
        call = asyncio.ensure_future(run.call("m", {}))
        waiting = {sleep: "sleep", signal: "signal", call: "call"}
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            found += [waiting.pop(one) for one in done]
        return found

    for order in ("sleep signal call", "call sleep signal", "signal call sleep"):
        driver = Driver(f)
        driver.turn()
        numbers = {step.kind: step.no for step in driver.run.steps}
        for what in order.split():
            match what:
                case "sleep":
                    driver.run.fire(numbers[StepKind.TIMER])
                case "signal":
                    driver.run.signal("s")
                case "call":
                    driver.run.complete(numbers[StepKind.CALL], None)
        assert driver.finish() == order.split()


# Cancelling


async def test_a_cancellation_ends_the_code_and_drops_its_steps() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        try:
            await run.call("m", {})
        finally:
            run.publish("tidied")

    driver = Driver(f)
    driver.turn()
    driver.run.cancel()
    turn = driver.turn()
    assert isinstance(turn.outcome, Cancelled)
    assert turn.dropped == [0]
    assert [step.name for step in turn.steps] == ["tidied"]


async def test_a_swallowed_cancellation_can_be_repeated() -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        with suppress(asyncio.CancelledError):
            await run.call("one", {})
        return await run.call("two", {})  # type: ignore[no-any-return]

    driver = Driver(f)
    driver.turn()
    driver.run.cancel()
    assert driver.turn().outcome is None
    driver.run.cancel()
    assert isinstance(driver.turn().outcome, Cancelled)


async def test_code_that_cancels_itself_has_failed() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        raise asyncio.CancelledError

    driver = Driver(f)
    driver.finish()
    assert isinstance(driver.run.outcome, Failed)
    assert "without a request" in driver.run.outcome.fault.message


async def test_what_is_shielded_ends_before_the_cancellation() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.shielded(run.call("payment", {}))
        await run.call("never", {})

    driver = Driver(f)
    driver.turn()
    driver.run.cancel()
    driver.run.cancel()
    turn = driver.turn()
    assert (turn.outcome, turn.dropped) == (None, [])
    driver.run.complete(0, None)
    assert isinstance(driver.turn().outcome, Cancelled)
    assert driver.run.keys() == [".1/payment#1"]


async def test_a_timeout_inside_of_what_is_shielded_works() -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        async def limited() -> str:
            try:
                async with asyncio.timeout(5):
                    await run.call("m", {})
            except TimeoutError:
                return "late"
            return "in time"

        return await run.shielded(limited())

    driver = Driver(f)
    driver.turn()
    driver.run.fire(0)
    assert driver.finish() == "late"


async def test_a_job_cancelled_by_others_is_a_failure_of_its_step() -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", {})

    driver = Driver(f)
    driver.turn()
    driver.run.fail(0, Fault(category=Category.CANCELLED, message="cancelled by an operator"), Status.CANCELLED)
    outcome = driver.turn().outcome
    assert isinstance(outcome, Failed)
    assert (outcome.fault.category, outcome.fault.type) == (Category.INTERNAL, "StepCancelled")


# Compensations


@flow(name="trip", version="1")
async def trip() -> str:
    async def unbook(booking: Any) -> None:
        await run.call("unbook", {"booking": booking})

    async def refund(amount: int) -> None:
        await run.call("refund", amount)

    await run.call("hotel", {}, compensate=unbook)
    run.compensate(refund, 5)
    await run.call("flight", {}, compensate=unbook)
    await run.call("last", {})
    return "booked"


def compensated(driver: Driver) -> list[tuple[str, str]]:
    return [
        (step.key, bytes(step.input).decode())
        for step in driver.run.steps
        if step.kind is StepKind.CALL and step.key.startswith("!") and step.input is not None
    ]


async def test_compensations_run_in_reverse_order_after_a_failure() -> None:
    driver = Driver(trip)
    driver.turn()
    assert [step.kind for step in driver.run.steps] == [StepKind.COMPENSATION, StepKind.CALL]
    driver.run.complete(1, "room 5")
    driver.turn()
    driver.run.fail(4, FAULT)
    assert driver.finish() == "step flight#1: no"
    assert compensated(driver) == [
        ("!3/unbook#1", '{"booking":null}'),
        ("!2/refund#1", "5"),
        ("!0/unbook#1", '{"booking":"room 5"}'),
    ]
    outcome = driver.run.outcome
    assert isinstance(outcome, Failed)
    assert outcome.fault.category is Category.PROVIDER_ERROR


async def test_compensations_do_not_run_after_success() -> None:
    driver = Driver(trip)
    assert driver.finish() == "booked"
    assert compensated(driver) == []


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancellation_compensates_and_does_not_reach_compensations(again: bool) -> None:
    driver = Driver(trip)
    driver.turn()
    driver.run.cancel()
    driver.turn()
    if again:
        driver.run.cancel()
        driver.turn()
    assert isinstance(driver.finish(), Cancelled)
    assert compensated(driver) == [("!0/unbook#1", '{"booking":null}')]


async def test_a_failed_compensation_holds_the_run_until_it_succeeds() -> None:
    driver = Driver(trip)
    driver.turn()
    driver.run.cancel()
    driver.turn()
    (step,) = driver.run.open(StepKind.CALL)
    driver.run.fail(step.no, FAULT)
    held = driver.turn().outcome
    assert isinstance(held, Held)
    assert held.reason == "compensation"
    assert held.message.startswith("compensation unbook failed: step !0/unbook#1: no. ")
    driver.run.unread = []
    driver.run.complete(step.no, None)
    assert isinstance(driver.turn().outcome, Cancelled)


async def test_side_effects_can_be_compensated() -> None:
    undone: list[Any] = []

    async def undo(value: Any) -> None:
        await run.side_effect(undone.append, value)

    @flow(name="f", version="1")
    async def f() -> None:
        await run.side_effect(lambda: "made", name="make", compensate=undo)
        raise LookupError

    assert Driver(f).finish() == "LookupError"
    assert undone == ["made"]
