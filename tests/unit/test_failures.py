"""The two-way table between failures of work and errors of services."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from penstock import errors
from penstock.client.transport import Unreachable
from penstock.errors import (
    FieldProblem,
    InvalidInput,
    MalformedBody,
    Overloaded,
    PenstockError,
    QuotaExceeded,
    ServiceError,
)
from penstock.failures import CallFailed, Category, category_of, error_of, failure_of

# Every error that is listed neither here nor in another category is INTERNAL: the caller's program, or ours, is wrong.
INTERNAL = {
    "error", "bad_request", "forbidden", "scope_missing", "unauthorized", "method_not_allowed", "stale_epoch",
    "wrong_state", "idempotency_conflict", "already_exists", "internal", "model_failed", "model_crashed",
    "cannot_start", "settings",
}  # fmt: skip


def codes(root: type[PenstockError]) -> Iterator[str]:
    yield root.code
    for child in root.__subclasses__():
        if child.__module__ in {errors.__name__, Unreachable.__module__}:
            yield from codes(child)


def test_every_error_has_a_chosen_category() -> None:
    """A new error either gets its row in the table, or is listed here."""
    assert {code for code in codes(PenstockError) if category_of(code) is Category.INTERNAL} == INTERNAL


@pytest.mark.parametrize("category", Category)
def test_failure_survives_the_way_through_an_error(category: Category) -> None:
    failure = CallFailed(category, "too dark", field="image" if category is Category.BAD_INPUT else None)
    there = error_of(failure, "model echo")
    back = failure_of(there)
    # A service has no error for what happens to jobs only.
    own = {Category.CANCELLED, Category.EXPIRED, Category.SHUTDOWN, Category.WORKER_LOST}
    assert back.category is (Category.INTERNAL if category in own else category)
    expected = "input.image: too dark" if category is Category.BAD_INPUT else "model echo: too dark"
    assert str(back) == expected


def test_the_wait_of_a_failure_is_kept() -> None:
    error = error_of(CallFailed(Category.RATE_LIMITED, "busy", retry_after=timedelta(seconds=7)))
    assert isinstance(error, Overloaded)
    assert error.retry_after == failure_of(error).retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("category", Category)
def test_the_code_of_an_engine_is_kept(category: Category) -> None:
    error = error_of(CallFailed(category, "no licence left", code=10110))
    assert error.engine_code == failure_of(error).code == 10110
    assert error_of(CallFailed(category, "no licence left")).engine_code is None


def test_a_job_waits_for_a_quota() -> None:
    failure = failure_of(QuotaExceeded("calls a minute", retry_after=timedelta(seconds=7)))
    assert (failure.category, failure.retry_after) == (Category.RATE_LIMITED, timedelta(seconds=7))


def test_every_problem_of_an_input_is_named() -> None:
    error = InvalidInput([FieldProblem(field="a", detail="is missing"), FieldProblem(field="b[1]", detail="is odd")])
    failure = failure_of(error)
    assert (failure.category, failure.field) == (Category.BAD_INPUT, "input.a")
    assert str(failure) == "input.a: is missing; input.b[1]: is odd"


def test_body_that_cannot_be_read_is_bad_input_as_a_whole() -> None:
    assert str(failure_of(MalformedBody("is not JSON"))) == "input: is not JSON"


def test_an_unavailable_service_is_worth_a_retry() -> None:
    assert failure_of(Unreachable("no response")).category is Category.RATE_LIMITED
    assert failure_of(ServiceError("broken")).category is Category.INTERNAL


def test_unknown_code_is_internal() -> None:
    assert category_of("made_up") is Category.INTERNAL
