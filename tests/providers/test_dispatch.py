"""Dispatch to one or several providers: in order, to all, or in a race; behind their gates."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from penstock.failures import CallFailed, Category
from penstock.outbound.gate import Gate, GateClosed
from penstock.providers import dispatch
from penstock.providers.dispatch import Candidate, Dispatched
from penstock.providers.metered import MeteredGate
from penstock.providers.profile import Mode
from penstock.providers.reply import ProviderAttempt, Reply, Used
from penstock.providers.reports import report_of
from tests.support.clocks import StandingClock

CallProvider = Callable[[], Awaitable[Reply]]


def saying(text: str) -> CallProvider:
    async def call() -> Reply:
        return Reply(text=text, model="m", used=Used(prompt_tokens=1))

    return call


def failing(category: str = "provider_error", *, retry_after: float | None = None) -> CallProvider:
    wait = None if retry_after is None else timedelta(seconds=retry_after)

    async def call() -> Reply:
        raise CallFailed(category, f"it is {category}", retry_after=wait)

    return call


class Hanging:
    """A provider that replies when it is released, and records whether its caller left."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.left = False
        self._response = asyncio.Event()

    def respond(self) -> None:
        self._response.set()

    async def __call__(self) -> Reply:
        self.begun.set()
        try:
            await self._response.wait()
        except asyncio.CancelledError:
            self.left = True
            raise
        return Reply(text="late", model="m", used=Used())


def candidate(
    name: str, call: CallProvider, gate: Gate | None = None, prepare: Callable[[], Awaitable[None]] | None = None
) -> Candidate:
    async def in_slot(gate: MeteredGate) -> Reply:
        async with gate.slot():
            return await call()

    return Candidate(name=name, model="m", gate=gate or Gate(8), call=in_slot, prepare=prepare)


async def dispatched(
    mode: Mode,
    *candidates: Candidate,
    reported: list[ProviderAttempt] | None = None,
    max_wait_seconds: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> Dispatched:
    heard = reported if reported is not None else []
    on_attempt = lambda _, attempt: heard.append(attempt)  # noqa: E731
    return await dispatch.dispatch(
        candidates, mode, max_wait_seconds=max_wait_seconds, on_attempt=on_attempt, stop=stop
    )


def outcomes(result: Dispatched) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.status) for attempt in result.attempts]


def closed(clock: StandingClock, seconds: str = "30") -> Gate:
    """Return the gate of a provider that limits us."""
    gate = Gate(1, clock=clock)
    gate.observe(429, {"Retry-After": seconds})
    return gate


async def test_first_stops_at_the_first_success() -> None:
    reported: list[ProviderAttempt] = []
    result = await dispatched(
        Mode.FIRST,
        candidate("a", failing()),
        candidate("b", saying("B")),
        candidate("c", saying("C")),
        reported=reported,
    )
    assert (result.provider, result.reply.text) == ("b", "B")
    assert outcomes(result) == [("a", "failed"), ("b", "completed")]
    assert reported == result.attempts


async def test_first_passes_over_closed_gates() -> None:
    clock = StandingClock()
    result = await dispatched(Mode.FIRST, candidate("a", saying("A"), closed(clock)), candidate("b", saying("B")))
    assert (result.reply.text, outcomes(result)) == ("B", [("b", "completed"), ("a", "skipped")])


async def test_first_waits_for_a_closed_gate_when_no_other_provider_succeeds() -> None:
    clock = StandingClock()
    limited = closed(clock)

    async def fail_a_while() -> Reply:
        clock.now += 30
        raise CallFailed(Category.PROVIDER_ERROR, "no")

    result = await dispatched(
        Mode.FIRST, candidate("a", saying("A"), limited), candidate("b", fail_a_while), max_wait_seconds=10
    )
    assert (result.reply.text, outcomes(result)) == ("A", [("b", "failed"), ("a", "completed")])


async def test_all_calls_every_provider_at_once_and_the_first_in_order_counts() -> None:
    slow = Hanging()
    running = asyncio.ensure_future(
        dispatched(Mode.ALL, candidate("a", failing()), candidate("b", slow), candidate("c", saying("C")))
    )
    await slow.begun.wait()
    slow.respond()
    result = await running
    assert result.reply.text == "late"
    assert outcomes(result) == [("a", "failed"), ("b", "completed"), ("c", "completed")]


async def test_race_takes_the_quickest_and_cancels_the_others() -> None:
    slow = Hanging()
    result = await dispatched(Mode.RACE, candidate("a", slow), candidate("b", failing()), candidate("c", saying("C")))
    assert result.reply.text == "C"
    assert sorted(outcomes(result)) == [("a", "cancelled"), ("b", "failed"), ("c", "completed")]
    assert outcomes(result)[0] == ("c", "completed")
    assert slow.left


async def test_race_reports_each_provider_once_also_those_that_end_together_or_never_began() -> None:
    reported: list[ProviderAttempt] = []
    busy = Gate(1)
    slow = Hanging()
    async with busy.slot(0):
        result = await dispatched(
            Mode.RACE,
            candidate("a", saying("A")),
            candidate("b", saying("B")),
            candidate("c", slow, busy),
            reported=reported,
        )
    assert result.reply.text == "A"
    assert sorted(outcomes(result)) == [("a", "completed"), ("b", "completed"), ("c", "skipped")]
    assert sorted(reported, key=lambda one: one.provider) == sorted(result.attempts, key=lambda one: one.provider)
    assert not slow.begun.is_set()


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_unforeseen_error_with_one_provider_costs_no_other_its_reply(mode: Mode) -> None:
    async def break_down() -> Reply:
        raise LookupError("secret")

    result = await dispatched(mode, candidate("a", break_down), candidate("b", saying("B")))
    assert result.reply.text == "B"
    (broken,) = [one for one in result.attempts if one.provider == "a"]
    assert (broken.status, broken.error) == ("failed", "it could not be called (LookupError)")
    assert broken.error_category is Category.INTERNAL


async def test_preparation_is_neither_the_providers_time_nor_its_fault() -> None:
    gate = Gate(1)

    async def prepare() -> None:
        assert report_of(gate).running == 0
        raise CallFailed(Category.INTERNAL, "the disk is full")

    one = candidate("a", saying("A"), gate, prepare)
    for _ in range(6):
        with pytest.raises(CallFailed, match="the disk is full") as caught:
            await dispatched(Mode.FIRST, one)
        assert caught.value.category is Category.INTERNAL
    report = report_of(gate)
    assert (report.breaker, report.last_error) == ("closed", None)


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_call_that_is_cancelled_leaves_its_trace(mode: Mode) -> None:
    reported: list[ProviderAttempt] = []
    slow = Hanging()
    running = asyncio.ensure_future(dispatched(mode, candidate("a", slow), reported=reported))
    await slow.begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert [(one.status, one.error) for one in reported] == [("cancelled", "the job ended before it responded")]


async def test_a_broken_stream_is_the_error_whichever_provider_was_passed_over() -> None:
    """Otherwise the job would run again and again without using an attempt."""
    begun = False

    async def cut() -> Reply:
        nonlocal begun
        begun = True
        raise CallFailed(Category.PROVIDER_ERROR, "cut")

    limited = candidate("a", saying("A"), closed(StandingClock()))
    with pytest.raises(CallFailed) as caught:
        await dispatched(Mode.FIRST, limited, candidate("b", cut), stop=lambda: begun)
    assert (caught.value.category, caught.value.message) == (Category.PROVIDER_ERROR, "b: cut")


async def test_the_wait_is_shared_by_all_providers() -> None:
    """Two providers that rest are not waited for one after the other."""
    clock = StandingClock()
    first, second = await resting(clock), await resting(clock)
    began = asyncio.get_running_loop().time()
    with pytest.raises(CallFailed) as caught:
        await dispatched(
            Mode.FIRST, candidate("a", saying("A"), first), candidate("b", saying("B"), second), max_wait_seconds=0.05
        )
    assert caught.value.category is Category.RATE_LIMITED, "no provider was called: no attempt is lost"
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_resting_provider_does_not_make_a_failure_free() -> None:
    gate = await resting(StandingClock())
    with pytest.raises(CallFailed) as caught:
        await dispatched(Mode.ALL, candidate("a", saying("A"), gate), candidate("b", failing()))
    assert caught.value.category is Category.PROVIDER_ERROR


async def resting(clock: StandingClock) -> Gate:
    """Return the gate of a provider that failed too often."""
    gate = Gate(4, clock=clock)
    for _ in range(5):
        with pytest.raises(CallFailed):
            async with gate.slot(0):
                await failing()()
    return gate


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_provider_that_failed_too_often_delays_no_other(mode: Mode) -> None:
    gate = await resting(StandingClock())
    result = await dispatched(mode, candidate("a", saying("A"), gate), candidate("b", saying("B")), max_wait_seconds=20)
    assert result.reply.text == "B"
    assert sorted(outcomes(result)) == [("a", "skipped"), ("b", "completed")]


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_provider_that_failed_too_often_is_called_when_no_other_succeeds(mode: Mode) -> None:
    clock = StandingClock()
    gate = await resting(clock)

    async def fail_a_while() -> Reply:
        clock.now += 10
        raise CallFailed(Category.PROVIDER_ERROR, "no")

    result = await dispatched(
        mode, candidate("a", saying("A"), gate), candidate("b", fail_a_while), max_wait_seconds=20
    )
    assert sorted(outcomes(result)) == [("a", "completed"), ("b", "failed")]
    if mode is Mode.ALL:
        assert outcomes(result) == [("a", "completed"), ("b", "failed")]


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_cancelled_request_cancels_its_calls(mode: Mode) -> None:
    slow = Hanging()
    running = asyncio.ensure_future(dispatched(mode, candidate("a", slow)))
    await slow.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert slow.left


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("kinds", "category"),
    [
        (["provider_error"], Category.PROVIDER_ERROR),
        (["bad_input", "bad_input"], Category.BAD_INPUT),
        (["bad_input", "provider_error"], Category.PROVIDER_ERROR),
        (["timeout", "timeout"], Category.TIMEOUT),
        (["timeout", "provider_error"], Category.PROVIDER_ERROR),
        (["provider_error", "rate_limited"], Category.RATE_LIMITED),
        (["rate_limited", "bad_input"], Category.RATE_LIMITED),
    ],
)
async def test_when_all_fail_the_category_decides_whether_to_try_again(
    mode: Mode, kinds: list[str], category: Category
) -> None:
    with pytest.raises(CallFailed) as caught:
        await dispatched(mode, *(candidate(f"p{place}", failing(kind)) for place, kind in enumerate(kinds)))
    assert caught.value.category is category
    for place, kind in enumerate(kinds):
        assert f"p{place}: it is {kind}" in caught.value.message


async def test_the_job_waits_for_the_provider_that_opens_soonest() -> None:
    clock = StandingClock()
    with pytest.raises(CallFailed) as caught:
        await dispatched(
            Mode.ALL, candidate("a", saying("A"), closed(clock, "30")), candidate("b", saying("B"), closed(clock, "12"))
        )
    assert caught.value.category is Category.RATE_LIMITED
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(12)


@pytest.mark.parametrize("mode", list(Mode))
async def test_input_is_not_bad_while_a_provider_was_not_called(mode: Mode) -> None:
    gate = await resting(StandingClock())
    with pytest.raises(CallFailed) as caught:
        await dispatched(mode, candidate("a", saying("A"), gate), candidate("b", failing("bad_input")))
    assert caught.value.category is Category.PROVIDER_ERROR
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(10)


async def test_usage_before_a_failure_is_reported() -> None:
    reported: list[ProviderAttempt] = []

    async def twice(gate: MeteredGate) -> Reply:
        async with gate.slot():
            gate.paid(Used(prompt_tokens=5, audio_seconds=1.5))
        async with gate.slot():
            raise CallFailed(Category.PROVIDER_ERROR, "no")

    with pytest.raises(CallFailed):
        await dispatched(Mode.FIRST, Candidate(name="a", model="m", gate=Gate(1), call=twice), reported=reported)
    assert reported[0].usage == Used(prompt_tokens=5, audio_seconds=1.5)


async def test_a_stated_wait_of_days_is_an_hour() -> None:
    with pytest.raises(CallFailed) as caught:
        await dispatched(Mode.FIRST, candidate("a", failing("rate_limited", retry_after=7 * 24 * 3600)))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 3600


# The gate


async def test_a_gate_lets_so_many_through_and_keeps_the_order() -> None:
    gate, order, slow = Gate(2), [], [Hanging(), Hanging(), Hanging()]

    async def call(place: int) -> None:
        async with gate.slot(0):
            order.append(place)
            await slow[place]()

    calls = [asyncio.ensure_future(call(place)) for place in range(3)]
    await slow[1].begun.wait()
    assert (order, report_of(gate).running) == ([0, 1], 2)
    slow[0].respond()
    await slow[2].begun.wait()
    for one in slow[1:]:
        one.respond()
    await asyncio.gather(*calls)
    assert (order, report_of(gate).running) == ([0, 1, 2], 0)


async def test_a_call_that_waits_for_a_slot_is_refused_as_soon_as_its_wait_is_too_long() -> None:
    """Slots are held by calls that run, not by those that wait for the gate to open."""
    gate = Gate(1, clock=StandingClock())
    slow = Hanging()

    async def call(max_wait_seconds: float) -> None:
        async with gate.slot(max_wait_seconds):
            await slow()

    first = asyncio.ensure_future(call(0))
    await slow.begun.wait()
    long, short = asyncio.ensure_future(call(60)), asyncio.ensure_future(call(20))
    await asyncio.sleep(0)
    gate.observe(429, {"Retry-After": "30"})
    with pytest.raises(GateClosed, match="its rate limit is used up"):
        await short
    assert not long.done()
    slow.respond()
    await first
    assert report_of(gate).running == 0
    long.cancel()
    await asyncio.wait([long])


@pytest.mark.parametrize("seed", range(8))
async def test_a_gate_loses_no_place_whatever_happens(seed: int) -> None:
    """Calls that fail, succeed, are refused, limited, and cancelled at every moment."""
    choose = random.Random(seed)
    clock = StandingClock()
    gate = Gate(3, per_minute=choose.choice([None, 20]), clock=clock)
    running = most = trials = 0

    async def call() -> None:
        nonlocal running, most, trials
        async with gate.slot(choose.choice([0, 1, 1000])):
            running += 1
            trial = report_of(gate).breaker == "half_open"
            trials += trial
            most = max(most, running)
            assert trials <= 1
            try:
                for _ in range(choose.randrange(4)):
                    await asyncio.sleep(0)
                match choose.randrange(5):
                    case 0:
                        raise CallFailed(Category.PROVIDER_ERROR, "no")
                    case 1:
                        gate.observe(429, {"Retry-After": str(choose.randrange(3))})
                        raise CallFailed(Category.RATE_LIMITED, "later")
                    case 2:
                        raise LookupError
            finally:
                running -= 1
                trials -= trial

    for _ in range(400):
        calls = [asyncio.ensure_future(call()) for _ in range(choose.randrange(1, 9))]
        while not all(one.done() for one in calls):
            await asyncio.sleep(0)
            clock.now += choose.choice([0, 0, 0, 0.3, 5])
            gate.observe(200, {})  # checks the queue, as its timer would
            if choose.random() < 0.2:
                choose.choice(calls).cancel()
        assert {type(one.exception()) for one in calls if not one.cancelled()} <= {
            type(None), CallFailed, LookupError, GateClosed
        }  # fmt: skip
        assert (running, report_of(gate).running) == (0, 0)
    assert most == 3


async def test_a_gate_opens_and_closes_with_its_provider() -> None:
    clock = StandingClock()
    gate = Gate(4, clock=clock)
    for _ in range(5):
        with pytest.raises(CallFailed):
            async with gate.slot(0):
                raise CallFailed(Category.PROVIDER_ERROR, "HTTP 500")
    with pytest.raises(GateClosed, match=r"it failed 5 times in a row \(the last: HTTP 500\)") as refused:
        async with gate.slot(1):
            raise AssertionError
    assert refused.value.seconds == pytest.approx(10)
    report = report_of(gate)
    assert (report.breaker, report.failures_in_a_row, report.wait_seconds) == ("open", 5, 10)
    assert report.last_error is not None
    assert (report.last_error.category, report.last_error.message) == ("provider_error", "HTTP 500")
    clock.now += 10
    async with gate.slot(0):
        assert report_of(gate).breaker == "half_open"
        with pytest.raises(GateClosed):
            async with gate.slot(0):
                raise AssertionError
    assert report_of(gate).breaker == "closed"


@pytest.mark.parametrize("kind", ["bad_input", "rate_limited"])
async def test_failures_that_are_not_the_providers_open_no_breaker(kind: str) -> None:
    gate = Gate(4)
    for _ in range(10):
        with pytest.raises(CallFailed):
            async with gate.slot(0):
                await failing(kind)()
    assert report_of(gate).breaker == "closed"


async def test_a_trial_that_is_given_up_leaves_the_gate_usable() -> None:
    clock = StandingClock()
    gate = Gate(4, clock=clock)
    for _ in range(5):
        with pytest.raises(CallFailed):
            async with gate.slot(0):
                raise CallFailed(Category.TIMEOUT, "slow")
    clock.now += 10
    slow = Hanging()

    async def trial() -> None:
        async with gate.slot(0):
            await slow()

    running = asyncio.ensure_future(trial())
    await slow.begun.wait()
    running.cancel()
    await asyncio.wait([running])
    async with gate.slot(0):
        pass
    assert report_of(gate).breaker == "closed"
