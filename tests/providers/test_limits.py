"""The rate limits that a server's responses state, and the calls that a breaker lets through."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from penstock.outbound.breaker import Breaker, BreakerState
from penstock.outbound.limits import RateLimit

NOW = 1000.0


def after(status: int = 200, *, headers: Mapping[str, str] | None = None, **named: str) -> RateLimit:
    """Return what is known after one response."""
    limit = RateLimit()
    stated = {name.replace("_", "-"): value for name, value in (named | dict(headers or {})).items()}
    limit.observe(status, CIMultiDict(stated), NOW)
    return limit


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (200, {}, 0),
        (429, {}, 1),
        (429, {"Retry_After": "7"}, 7),
        (429, {"Retry_After": "nonsense"}, 1),
        (429, {"Retry_After": "0"}, 1),
        (429, {"Retry_After": "0.01"}, 1),
        (429, {"Retry_After": "Thu, 01 Jan 2026 00:00:00 GMT"}, 1),
        (503, {"Retry_After": "5"}, 5),
        (503, {}, 0),
        (429, {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1m2.5s"}, 62.5),
        (200, {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "250ms"}, 0.25),
        # 60 a minute, none left: the next one is given back after a second, all of them after a minute
        (
            200,
            {
                "x_ratelimit_limit_requests": "60",
                "x_ratelimit_remaining_requests": "0",
                "x_ratelimit_reset_requests": "1m0s",
            },
            1,
        ),
        # a server that refuses with the same headers is not tried after a second: the stated reset holds
        (
            429,
            {
                "x_ratelimit_limit_requests": "60",
                "x_ratelimit_remaining_requests": "0",
                "x_ratelimit_reset_requests": "1m0s",
            },
            60,
        ),
        (429, {"x_ratelimit_reset_requests": "30s"}, 30),
        (429, {"x_ratelimit_reset": "30"}, 30),
        (429, {"ratelimit_reset": "30"}, 30),
        # requests remain, so it was the tokens that did not suffice, though some are left
        (
            429,
            {
                "x_ratelimit_remaining_requests": "59",
                "x_ratelimit_reset_requests": "1s",
                "x_ratelimit_remaining_tokens": "120",
                "x_ratelimit_reset_tokens": "45s",
            },
            45,
        ),
        (429, {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "45s"}, 45),
        # a stated wait takes precedence over the other headers
        (429, {"Retry_After": "5", "x_ratelimit_remaining_requests": "9", "x_ratelimit_reset_requests": "60s"}, 5),
        (429, {"Retry_After_Ms": "2500", "Retry_After": "3"}, 2.5),
        (429, {"Retry_After_Ms": "soon", "Retry_After": "3"}, 3),
        (200, {"x_ratelimit_remaining_requests": "3", "x_ratelimit_reset_requests": "60s"}, 0),
        (200, {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6s"}, 6),
        (200, {"x_ratelimit_remaining_tokens": "12", "x_ratelimit_reset_tokens": "6s"}, 0),
        (200, {"x_ratelimit_remaining": "0", "x_ratelimit_reset": "20"}, 20),
        (200, {"ratelimit_remaining": "0", "ratelimit_reset": "20"}, 20),
        (200, {"x_ratelimit_remaining_requests": "-1", "x_ratelimit_reset_requests": "6s"}, 0),
        (200, {"x_ratelimit_remaining_requests": "many", "x_ratelimit_reset_requests": "6s"}, 0),
        (200, {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "soon"}, 0),
        (429, {"Retry_After": "99999999"}, 3600),
    ],
)
def test_the_wait_that_a_response_requests(status: int, headers: dict[str, str], wait: float) -> None:
    assert after(status, headers=headers).wait(NOW) == pytest.approx(wait)


@pytest.mark.parametrize(
    "header",
    [
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 99999999999999 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sat, 01 Jan 0001 00:00:00 +2359",
        "nan",
        "-5",
        "",
    ],
)
def test_a_wait_that_cannot_be_read_is_ignored(header: str) -> None:
    limit = RateLimit()
    limit.observe(503, {"Retry-After": header}, 1000.0)
    assert limit.wait(1000.0) <= 3600


@pytest.mark.parametrize("reset", ["999999999h", "48h", "99999999", "4102444800"])
def test_a_window_that_ends_in_days_is_tried_after_an_hour(reset: str) -> None:
    for headers in (
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset},
    ):
        limit = RateLimit()
        limit.observe(200, headers, 1000.0)
        assert limit.wait(1000.0) == 3600


def test_a_reset_may_be_a_moment() -> None:
    limit = after(429, x_ratelimit_remaining="0", x_ratelimit_reset=str(int(time.time()) + 30))
    assert 28 <= limit.wait(NOW) <= 30


def test_the_wait_grows_with_each_refusal_that_states_none() -> None:
    limit = RateLimit()
    waits = []
    now = NOW
    for _ in range(9):
        limit.observe(429, {}, now)
        waits.append(limit.wait(now))
        now += limit.wait(now)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    limit.observe(200, {}, now)
    limit.observe(429, {}, now)
    assert limit.wait(now) == pytest.approx(1)


def test_remaining_requests_are_counted_down_and_renewed() -> None:
    limit = after(x_ratelimit_remaining="2", x_ratelimit_reset="10")
    for wait in (0, 0, 10):
        assert limit.wait(NOW) == pytest.approx(wait)
        if not wait:
            limit.begin(NOW)
    assert limit.wait(NOW + 10) == 0
    limit.begin(NOW + 10)
    assert limit.remaining is None


def test_of_a_limit_that_fills_evenly_one_call_begins_at_a_time() -> None:
    """60 a minute and none left: one each second, not all of them after the first."""
    limit = after(
        headers={
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "60s",
        }
    )
    for second in range(1, 5):
        assert limit.wait(NOW + second - 0.1) == pytest.approx(0.1)
        assert limit.wait(NOW + second) == 0
        limit.begin(NOW + second)
        assert limit.wait(NOW + second) == pytest.approx(1)


def test_a_limit_that_is_known_holds_for_any_minute() -> None:
    limit = RateLimit(per_minute=3)
    for second in (0, 10, 50):
        assert limit.wait(NOW + second) == 0
        limit.begin(NOW + second)
    assert limit.wait(NOW + 50) == pytest.approx(10)
    limit.begin(NOW + 60)
    assert limit.wait(NOW + 61) == pytest.approx(9)


def test_a_shorter_wait_never_shortens_a_longer_one() -> None:
    limit = after(429, Retry_After="30")
    limit.observe(429, {"Retry-After": "1"}, NOW)
    assert limit.wait(NOW) == pytest.approx(30)


def failed(breaker: Breaker, times: int, now: float = NOW, *, trial: bool = False) -> None:
    for _ in range(times):
        breaker.failed(now, trial=trial)


def test_the_breaker_opens_after_failures_in_a_row_and_one_trial_closes_it() -> None:
    breaker = Breaker()
    failed(breaker, 4)
    breaker.succeeded(trial=False)
    failed(breaker, 4)
    assert breaker.wait(NOW) == 0
    failed(breaker, 1)
    assert (breaker.state, breaker.wait(NOW)) == (BreakerState.OPEN, 10)
    later = NOW + 10
    assert breaker.wait(later) == 0
    assert breaker.begin()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.wait(later) > 0, "only one call tries"
    breaker.succeeded(trial=True)
    assert (breaker.state, breaker.wait(later)) == (BreakerState.CLOSED, 0)
    assert not breaker.begin()


def test_a_failed_trial_reopens_the_breaker_for_longer_and_an_abandoned_one_lets_the_next_call_try() -> None:
    breaker = Breaker()
    failed(breaker, 5)
    now, waits = NOW, []
    for _ in range(7):
        waits.append(breaker.wait(now))
        now += waits[-1]
        assert breaker.begin()
        failed(breaker, 1, now, trial=True)
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    now += breaker.wait(now)
    breaker.begin()
    breaker.abandoned(trial=True)
    assert breaker.wait(now) == 0


def test_calls_that_began_before_it_opened_decide_nothing() -> None:
    breaker = Breaker()
    failed(breaker, 5)
    failed(breaker, 3, NOW + 9)
    assert breaker.wait(NOW + 9) == pytest.approx(1), "its pause is not extended"
    breaker.succeeded(trial=False)
    assert breaker.state is BreakerState.OPEN
    breaker.begin()
    breaker.abandoned(trial=False)
    failed(breaker, 1, NOW + 10)
    assert (breaker.state, breaker.wait(NOW + 10) > 0) == (BreakerState.HALF_OPEN, True)
