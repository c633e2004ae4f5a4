"""The rules of a job's life, tested with every category and every tally around its boundaries."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.failures import Category
from penstock.jobs.states import (
    FINISHED,
    Again,
    Over,
    RetryPolicy,
    Status,
    Tally,
    after_failure,
    may_cancel,
    may_retry,
)

POLICY = RetryPolicy(base=timedelta(seconds=2), cap=timedelta(seconds=60), max_lost_leases=3)
BURNING = (Category.TIMEOUT, Category.PROVIDER_ERROR, Category.INTERNAL)
FREE = (Category.RATE_LIMITED, Category.SHUTDOWN)
TALLIES = [
    Tally(attempt=failures + free, failures=failures, losses=losses, max_attempts=most, cancel_requested=cancel)
    for failures, losses, most, cancel, free in product(range(5), range(5), range(1, 5), (False, True), (1, 4))
]
WAITS = [None, timedelta(0), timedelta(seconds=1), timedelta(hours=2)]


def expected(category: Category, tally: Tally, jitter: float, retry_after: timedelta | None) -> Again | Over:
    """Return the outcome by the rules, written a second time as a plain list of conditions."""
    floor = retry_after if retry_after is not None else timedelta(0)
    failures, losses = tally.failures, tally.losses
    spaced = min(timedelta(seconds=2) * 2**failures, timedelta(seconds=60)) * (0.5 + jitter)
    last = failures + 1 >= tally.max_attempts
    if tally.cancel_requested or category == "cancelled":
        return Over(status=Status.CANCELLED)
    if category in {"bad_input", "expired"}:
        return Over(status=Status.FAILED)
    if category == "shutdown":
        return Again(delay=floor, failures=failures, losses=losses)
    if category == "rate_limited":
        free = tally.attempt - failures
        step = (
            timedelta(seconds=2) if retry_after is not None else min(timedelta(seconds=2) * 2 ** (free - 1), POLICY.cap)
        )
        return Again(delay=max(floor, step * (0.5 + jitter)), failures=failures, losses=losses)
    if category == "worker_lost":
        if last or losses + 1 >= 3:
            return Over(status=Status.FAILED)
        return Again(delay=floor, failures=failures + 1, losses=losses + 1)
    if last:
        return Over(status=Status.FAILED)
    return Again(delay=max(floor, spaced), failures=failures + 1, losses=losses)


@pytest.mark.parametrize("category", Category)
def test_every_failure_of_every_tally_ends_by_the_table_of_rules(category: Category) -> None:
    for tally, jitter, wait in product(TALLIES, (0.0, 0.3, 0.999), WAITS):
        outcome = after_failure(category, tally, POLICY, jitter=jitter, retry_after=wait)
        assert outcome == expected(category, tally, jitter, wait), (category, tally, jitter, wait)


@pytest.mark.parametrize("category", Category)
def test_a_cancelled_job_is_never_retried_whatever_its_worker_reports(category: Category) -> None:
    for tally in TALLIES:
        if tally.cancel_requested:
            assert after_failure(category, tally, POLICY, jitter=0.5) == Over(status=Status.CANCELLED)


@pytest.mark.parametrize("category", BURNING)
def test_a_failure_that_counts_is_retried_exactly_until_the_attempts_are_used_up(category: Category) -> None:
    failures = 0
    outcomes = []
    while True:
        tally = Tally(attempt=failures + 1, failures=failures, losses=0, max_attempts=4, cancel_requested=False)
        outcome = after_failure(category, tally, POLICY, jitter=0.5)
        outcomes.append(outcome)
        if isinstance(outcome, Over):
            break
        failures = outcome.failures
    assert len(outcomes) == 4
    assert outcomes[-1] == Over(status=Status.FAILED)


@pytest.mark.parametrize("category", FREE)
def test_rate_limits_and_shutdowns_cost_nothing_even_on_the_last_attempt(category: Category) -> None:
    for tally in TALLIES:
        if not tally.cancel_requested:
            outcome = after_failure(category, tally, POLICY, jitter=0.5)
            assert isinstance(outcome, Again)
            assert (outcome.failures, outcome.losses) == (tally.failures, tally.losses)


def test_rate_limits_cost_attempts_after_a_thousand_that_cost_nothing() -> None:
    """Otherwise a job could be retried for ever."""
    attempt, failures = 0, 0
    while True:
        attempt += 1
        tally = Tally(attempt=attempt, failures=failures, losses=0, max_attempts=3, cancel_requested=False)
        outcome = after_failure(Category.RATE_LIMITED, tally, POLICY, jitter=0.5, retry_after=timedelta(0))
        if isinstance(outcome, Over):
            break
        assert outcome.delay >= timedelta(seconds=1), "nor is it due at once"
        failures = outcome.failures
    assert (attempt, outcome.status) == (1003, Status.FAILED)


def test_a_job_whose_workers_keep_dying_ends_after_the_set_number_of_lost_leases() -> None:
    tally = Tally(attempt=2, failures=0, losses=1, max_attempts=100, cancel_requested=False)
    assert isinstance(after_failure(Category.WORKER_LOST, tally, POLICY, jitter=0), Again)
    tally = Tally(attempt=3, failures=0, losses=2, max_attempts=100, cancel_requested=False)
    assert after_failure(Category.WORKER_LOST, tally, POLICY, jitter=0) == Over(status=Status.FAILED)


@given(
    failures=st.integers(-3, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
    base=st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1)),
    cap=st.timedeltas(timedelta(milliseconds=1), timedelta(days=7)),
)
def test_a_backoff_lies_within_half_and_one_and_a_half_of_its_step_and_never_far_above_the_cap(
    failures: int, jitter: float, base: timedelta, cap: timedelta
) -> None:
    step = min(cap, base * 2 ** min(max(failures, 1) - 1, 32))
    delay = RetryPolicy(base=base, cap=cap).backoff(failures, jitter=jitter)
    assert step * 0.5 - timedelta(microseconds=1) <= delay <= step * 1.5 + timedelta(microseconds=1)
    assert delay <= cap * 1.5 + timedelta(microseconds=1)


def test_backoffs_double_until_the_cap() -> None:
    delays = [POLICY.backoff(failures, jitter=0.5).total_seconds() for failures in range(1, 8)]
    assert delays == [2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_equal_failures() -> None:
    assert POLICY.backoff(1, jitter=0.0) == timedelta(seconds=1)
    assert POLICY.backoff(1, jitter=0.5) == timedelta(seconds=2)
    assert POLICY.backoff(1, jitter=0.75) == timedelta(seconds=2.5)


@pytest.mark.parametrize("status", Status)
def test_which_states_may_be_retried_and_cancelled(status: Status) -> None:
    assert may_retry(status) == (status in {"failed", "running"})
    assert may_cancel(status) == (status in {"pending", "running", "waiting"})
    assert status.finished == (status in FINISHED) == (status in {"completed", "failed", "cancelled"})
