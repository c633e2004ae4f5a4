"""What flow code can do, run by run; each runs resident, and again with a replay before every turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from penstock.flows import flow, run
from penstock.flows.kernel.records import OnParentEnd, StepKind, Target
from tests.support.flow_drivers import Driver
from tests.support.flow_stores import START, fault

pytestmark = pytest.mark.parametrize("replays", [False, True], ids=["resident", "replayed"])


class Chapter(BaseModel):
    title: str
    words: int = 0


def value_of(step: Any) -> Any:
    return msgspec.json.decode(step.input)


async def test_calls_return_results_in_order_of_the_code(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f(names: list[str]) -> list[str]:
        return [await run.call("greeter", {"name": name}) for name in names]

    driver = Driver(f, {"names": ["a", "b"]}, replays=replays)
    assert driver.finish(lambda step: value_of(step)["name"] * 2) == ["aa", "bb"]
    assert driver.run.keys() == ["greeter#1", "greeter#2"]


async def test_the_type_of_the_first_argument_says_what_is_called(replays: bool) -> None:
    @flow(name="child", version="2")
    async def child(title: str) -> Chapter:
        return Chapter(title=title)

    @flow(name="f", version="1", step_max_attempts=7, step_timeout=timedelta(minutes=1))
    async def f() -> str:
        await run.call("model", 1)
        await run.call(run.queue("chat", "fast"), 2, priority=3, max_attempts=1, on_parent_end="abandon")
        await run.call(run.flow("other", "9"), 3, timeout=5.5, concurrency_key="x")
        chapter = await run.call(child, {"title": "t"})
        return chapter.title

    driver = Driver(f, replays=replays)
    assert driver.finish(lambda _step: {"title": "typed"}) == "typed"
    assert [step.target for step in driver.run.steps] == [
        Target(task_type="predict", model_profile="model", max_attempts=7, timeout_seconds=60),
        Target(
            task_type="chat",
            model_profile="fast",
            priority=3,
            max_attempts=1,
            timeout_seconds=60,
            on_parent_end=OnParentEnd.ABANDON,
        ),
        Target(task_type="flow", model_profile="other@9", max_attempts=7, timeout_seconds=5.5, concurrency_key="x"),
        Target(task_type="flow", model_profile="child@2", max_attempts=7, timeout_seconds=60),
    ]
    assert driver.run.keys() == ["model#1", "chat/fast#1", "other#1", "child#1"]


async def test_results_take_the_type_that_the_call_states(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        chapter = await run.call("writer", {}, returns=Chapter)
        try:
            await run.call("writer", {}, returns=int)
        except run.StepFailed as error:
            return [chapter.words, str(error)]
        return []

    words, error = Driver(f, replays=replays).finish(lambda _step: {"title": "t", "words": 5})
    assert words == 5
    assert "step writer#2: its result cannot be used" in error


async def test_a_failed_step_raises_its_fault(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        try:
            await run.call("bad", {})
        except run.StepFailed as error:
            return f"{error.category} {error.step} {error.message}"
        return "none"

    def refuse(step: Any) -> None:
        raise ValueError("too hot")

    assert Driver(f, replays=replays).finish(refuse) == "internal bad#1 too hot"


async def test_an_exception_of_the_code_fails_the_run_with_frames_of_flow_code_only(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", {})
        raise LookupError("nothing there")

    driver = Driver(f, replays=replays)
    assert driver.finish() == "LookupError: nothing there"
    outcome: Any = driver.run.outcome
    assert outcome.fault.type == "LookupError"
    (line,) = outcome.stack.splitlines()
    assert 'raise LookupError("nothing there")' in line


async def test_wrong_input_fails_the_run_and_names_the_field(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f(count: int) -> None: ...

    driver = Driver(f, {"count": "many"}, replays=replays)
    assert driver.finish() == "count: must be a valid integer, unable to parse string as an integer"
    outcome: Any = driver.run.outcome
    assert outcome.fault.category == "bad_input"


async def test_the_name_that_was_probably_meant_is_suggested(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f(chapters: int = 1) -> None: ...

    fault = "chapter: is not an input of this flow; did you mean chapters?"
    assert Driver(f, {"chapter": 2}, replays=replays).finish() == fault


async def test_a_result_of_another_type_fails_the_run(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> int:
        return "text"  # type: ignore[return-value]  # the mistake that this is about

    assert "the flow broke its contract: what it returned must be" in Driver(f, replays=replays).finish()


async def test_handles_start_at_once_and_can_be_awaited_later(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        first, second = run.start("m", 1), run.start("m", 2)
        return [await second, await first]

    driver = Driver(f, replays=replays)
    driver.turn()
    assert driver.run.keys() == ["m#1", "m#2"]
    assert driver.finish(value_of) == [2, 1]


async def test_gather_takes_calls_handles_and_coroutines(replays: bool) -> None:
    async def twice(number: int) -> int:
        return await run.call("m", number) + await run.call("m", number)  # type: ignore[no-any-return]

    @flow(name="f", version="1")
    async def f() -> list[Any]:
        return await run.gather(run.call("m", 1), run.start("m", 2), twice(3), twice(4))

    driver = Driver(f, replays=replays)
    assert driver.finish(value_of) == [1, 2, 6, 8]
    assert driver.run.keys() == ["m#1", "m#2", ".1/m#1", ".2/m#1", ".1/m#2", ".2/m#2"]


async def test_the_first_failure_of_gather_drops_the_others(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> str:
        try:
            await run.gather(run.call("good", 1), run.call("bad", 2), run.call("good", 3))
        except run.StepFailed as error:
            return error.step
        return "none"

    driver = Driver(f, replays=replays)
    driver.turn()
    driver.run.fail(1, fault("no"))
    turn = driver.turn()
    assert turn.dropped == [0, 2]
    assert driver.run.outcome is not None


async def test_gather_returns_exceptions_in_place(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        found = await run.gather(run.call("m", 1), run.call("m", 2), return_exceptions=True)
        return [str(one) for one in found]

    def answer(step: Any) -> Any:
        if value_of(step) == 1:
            raise ValueError("no")
        return "yes"

    assert Driver(f, replays=replays).finish(answer) == ["step m#1: no", "yes"]


async def test_race_returns_the_first_and_drops_the_losers_in_the_same_turn(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> Any:
        return await run.race(run.call("slow", 1), run.call("fast", 2), run.sleep(60))

    driver = Driver(f, replays=replays)
    driver.turn()
    driver.run.complete(1, "won")
    turn = driver.turn()
    assert turn.dropped == [0, 2]
    assert msgspec.json.decode(turn.outcome.result) == [1, "won"]  # type: ignore[union-attr]  # it has completed


async def test_map_is_one_step_and_returns_results_in_order(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        return await run.map("m", range(3), limit=2, key="all")

    driver = Driver(f, replays=replays)
    driver.turn()
    (step,) = driver.run.steps
    assert (step.kind, step.key, step.limit, step.fail_fast) == (StepKind.MAP, "all", 2, True)
    assert step.items is not None
    assert [bytes(item) for item in step.items] == [b"0", b"1", b"2"]
    driver.run.complete(0, [{"status": "completed", "value": number} for number in (5, 6, 7)])
    assert driver.finish() == [5, 6, 7]


async def test_map_can_return_exceptions(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = await run.map("m", ["a", "b"], return_exceptions=True)
        return [str(one) for one in found]

    driver = Driver(f, replays=replays)
    assert driver.turn().steps[0].fail_fast is False
    ends = [
        {"status": "completed", "value": 1},
        {"status": "failed", "fault": {"category": "timeout", "message": "too slow", "type": ""}},
    ]
    driver.run.complete(0, ends)
    assert driver.finish() == ["1", "step m#1[1]: too slow"]


async def test_a_map_of_an_async_function_runs_it_in_tasks(replays: bool) -> None:
    async def chapter(title: str) -> str:
        text = await run.call("writer", {"title": title})
        return await run.call("speaker", {"text": text})  # type: ignore[no-any-return]

    @flow(name="f", version="1")
    async def f() -> list[Any]:
        return await run.map(chapter, ["a", "b", "c"], limit=2)

    driver = Driver(f, replays=replays)
    driver.turn()
    assert driver.run.keys() == [".1[0]/writer#1", ".1[1]/writer#1"]
    driver.run.complete(1, "second")
    driver.turn()
    driver.run.complete(2, "spoken")
    driver.turn()
    assert driver.run.keys()[2:] == [".1[1]/speaker#1", ".1[2]/writer#1"]
    assert driver.finish(lambda step: step.key) == [".1[0]/speaker#1", "spoken", ".1[2]/speaker#1"]


async def test_items_of_a_map_of_a_function_can_have_names(replays: bool) -> None:
    async def chapter(title: str) -> str:
        return await run.call("writer", title)  # type: ignore[no-any-return]

    @flow(name="f", version="1")
    async def f() -> list[Any]:
        return await run.map(chapter, ["intro", "the end"], key=lambda title: title)

    driver = Driver(f, replays=replays)
    driver.turn()
    assert driver.run.keys() == [".1[intro]/writer#1", ".1[the end]/writer#1"]
    assert driver.finish(lambda step: step.key) == driver.run.keys()


async def test_names_of_items_differ_and_have_a_form(replays: bool) -> None:
    async def chapter(title: str) -> None: ...

    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = []
        for items, key in ((["a", "a"], str), (["a]"], str), (["#"], str), (["a"], "one"), ([1], lambda one: one)):
            try:
                await run.map(chapter, items, key=key)
            except (ValueError, TypeError) as error:
                found.append(str(error)[:30])
        try:
            await run.map("m", ["a"], key=str)
        except TypeError as error:
            found.append(str(error)[:30])
        return found

    assert Driver(f, replays=replays).finish() == [
        "the key 'a' is the name of 2 i",
        "the key 'a]' holds ]: the name",
        "key must be a text of 1 to 200",
        "key must be a function that re",
        "key must be a text of 1 to 200",
        "the items of a map of jobs hav",
    ]


async def test_a_failure_in_a_map_of_a_function_ends_the_others_or_is_returned(replays: bool) -> None:
    async def picky(number: int) -> int:
        await run.call("m", number)
        return 6 // number

    @flow(name="f", version="1")
    async def f(tolerant: bool) -> list[Any]:
        found = await run.map(picky, [3, 0, 2], return_exceptions=tolerant)
        return [one if isinstance(one, int) else type(one).__name__ for one in found]

    assert Driver(f, {"tolerant": True}, replays=replays).finish() == [2, "ZeroDivisionError", 3]
    failing = Driver(f, {"tolerant": False}, replays=replays)
    failing.turn()
    failing.run.complete(1, None)
    assert failing.turn().dropped == [0, 2]
    outcome: Any = failing.run.outcome
    assert outcome.fault.type == "ZeroDivisionError"


async def test_time_is_that_of_the_mail(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[datetime]:
        first = run.now()
        await run.sleep(timedelta(hours=1))
        second = run.now()
        await run.sleep_until(datetime(2030, 1, 1, tzinfo=UTC))
        await run.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
        await asyncio.sleep(0.5)
        return [first, second, run.now()]

    driver = Driver(f, replays=replays)
    found = driver.finish()
    last = datetime(2030, 1, 1, tzinfo=UTC).timestamp() + 0.5
    assert [datetime.fromisoformat(one).timestamp() for one in found] == [START, START + 3600, last]


async def test_random_values_are_the_same_on_each_replay_and_differ_otherwise(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[Any]:
        before = [run.uuid(), run.random().random(), run.random().random()]
        await run.call("m", before)
        return [*before, run.uuid(), run.run_id()]

    one, other = Driver(f, replays=replays), Driver(f, replays=replays)
    found, differs = one.finish(), other.finish()
    assert value_of(one.run.steps[0]) == found[:3]
    assert found[1] != found[2]
    assert found[0] != found[3]
    assert not set(found) & set(differs)
    assert found[4] == str(one.run.run_id)
    assert UUID(found[0]).version == 4


async def test_side_effects_run_once_and_come_back_when_stored(replays: bool) -> None:
    calls: list[Any] = []

    def plain(value: int) -> Chapter:
        calls.append(value)
        return Chapter(title="t", words=value)

    async def other(value: int) -> int:
        calls.append(value)
        await asyncio.sleep(0)
        return value

    def broken() -> None:
        calls.append("broken")
        raise ZeroDivisionError("by zero")

    @flow(name="f", version="1")
    async def f() -> list[Any]:
        chapter = await run.side_effect(plain, 1, returns=Chapter)
        number = await run.side_effect(other, 2)
        try:
            await run.side_effect(broken, max_attempts=2)
        except run.StepFailed as error:
            return [chapter.words, number, error.type, error.message]
        return []

    driver = Driver(f, replays=replays)
    turn = driver.turn()
    assert [recorded.no for recorded in turn.recorded] == [0]
    assert driver.finish() == [1, 2, "ZeroDivisionError", "ZeroDivisionError: by zero"]
    assert calls == [1, 2, "broken", "broken"]


async def test_a_side_effect_cannot_use_run(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.side_effect(run.now)

    assert "no flow is running here" in Driver(f, replays=replays).finish()


async def test_reports_are_steps_without_an_end(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        run.progress(0.5)
        run.publish("chapter.written", {"chapter": 1})
        await run.call("m", {})
        run.progress({"chapters": 2})

    driver = Driver(f, replays=replays)
    driver.finish()
    assert [(step.kind, step.name, step.input and value_of(step)) for step in driver.run.steps] == [
        ("progress", "progress", {"fraction": 0.5}),
        ("publish", "chapter.written", {"chapter": 1}),
        ("call", "m", {}),
        ("progress", "progress", {"chapters": 2}),
    ]


async def test_published_events_are_objects_of_kinds_that_are_not_penstock_s_own(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        run.publish("plain")
        found = []
        for kind, data in (("job.completed", {}), ("callback.test", {}), ("written", [1]), ("written", "text")):
            try:
                run.publish(kind, data)
            except ValueError as error:
                found.append(str(error)[:40])
        return found

    driver = Driver(f, replays=replays)
    assert driver.finish() == [
        "events whose kind begins with job. are P",
        "events whose kind begins with callback. ",
        "the data of the event must be an object,",
        "the data of the event must be an object,",
    ]
    assert [(step.name, value_of(step)) for step in driver.run.steps] == [("plain", {})]


async def test_keys_that_are_given_twice_are_an_error(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", 1, key="one")
        await run.call("m", 1, key="one")

    assert "key 'one' was given to an earlier step" in Driver(f, replays=replays).finish()


@pytest.mark.parametrize("key", ["", "a#1", "a\nb", "x" * 201, " a"])
async def test_keys_have_a_form(replays: bool, key: str) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", 1, key=key)

    assert "key must be a text of 1 to 200 characters" in Driver(f, replays=replays).finish()


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\ud800", "x" * 201])
async def test_names_have_a_form(replays: bool, name: str) -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = []
        for use in (
            lambda: run.start(name, 1),
            lambda: run.start(run.queue(name, name), 1),
            lambda: run.publish(name),
            lambda: run.patched(name),
        ):
            try:
                use()
            except ValueError as error:
                found.append(str(error)[:4])
        return found

    assert Driver(f, replays=replays).finish() == ["a na"] * 4


async def test_messages_hold_only_what_the_database_can(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        raise ValueError("a\0b\ud800c")

    assert Driver(f, replays=replays).finish() == "ValueError: a\ufffdb?c"


async def test_values_that_are_not_json_are_refused(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = []
        for value in (float("nan"), [1, {"a": float("inf")}], object(), "\ud800"):
            try:
                await run.call("m", value)
            except ValueError as error:
                found.append(str(error).partition("JSON")[0])
        return found

    assert Driver(f, replays=replays).finish() == [
        "the input of m holds NaN or an infinity, which ",
        "the input of m holds NaN or an infinity at [1].a, which ",
        "the input of m cannot be written as ",
        "the input of m cannot be written as ",
    ]


async def test_threads_and_sockets_of_asyncio_are_refused(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> list[str]:
        found = []
        for use in (asyncio.to_thread(print), asyncio.open_connection("localhost", 1)):
            try:
                await use
            except RuntimeError as error:
                found.append(str(error))
        return found

    one, other = Driver(f, replays=replays).finish()
    assert "flow code cannot use threads" in one
    assert "flow code cannot use create_connection of its event loop" in other


async def test_code_that_can_never_continue_is_held(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", {})
        await asyncio.Event().wait()

    driver = Driver(f, replays=replays)
    held = driver.finish()
    assert held.reason == "broken"
    assert "the code can never continue" in held.message


async def test_a_call_that_is_never_awaited_is_reported(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        run.call("m", {})

    with pytest.warns(RuntimeWarning, match="run.call of m was never awaited"):
        Driver(f, replays=replays).finish()


async def test_an_option_that_does_not_exist_is_refused_and_the_nearest_named(replays: bool) -> None:
    @flow(name="f", version="1")
    async def f() -> None:
        await run.call("m", {}, max_attempt=3)  # type: ignore[call-overload]  # the mistake that this is about

    assert (
        Driver(f, replays=replays).finish()
        == "TypeError: max_attempt is not an option of this call; did you mean max_attempts?"
    )
