"""Failures of work: one set of categories and one exception, from a model's replica to a job's report.

Imports only ``penstock.errors``: replicas use it in interpreters of their own.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final

from penstock.errors import (
    InvalidInput,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    Overloaded,
    PenstockError,
    ProviderFailed,
    QuotaExceeded,
)


class Category(StrEnum):
    """The kind of a failure, which decides whether a job is tried again."""

    BAD_INPUT = "bad_input"  # the input can never work: no retry
    CANCELLED = "cancelled"  # stopped on request: no retry, the job is cancelled
    RATE_LIMITED = "rate_limited"  # not now: retried, costs no attempt
    SHUTDOWN = "shutdown"  # the worker is stopping: retried at once, costs no attempt
    TIMEOUT = "timeout"  # it took longer than its limit
    PROVIDER_ERROR = "provider_error"  # a server behind the model or the worker failed
    UNAVAILABLE = "unavailable"  # the model cannot be loaded at present
    EXPIRED = "expired"  # no worker took the job in time: no retry
    WORKER_LOST = "worker_lost"  # the lease expired, or was taken away
    INTERNAL = "internal"  # the model or the executor failed, and anything else


class CallFailed(Exception):
    """A call, an attempt or a load ended without a result, for a reason that its caller may read: no secrets in it.

    ``field`` names the part of the input that breaks a rule; ``retry_after`` is the earliest time for another try;
    ``code`` is the number by which the engine of a model names the failure.
    """

    def __init__(
        self,
        category: Category | str,
        message: str,
        *,
        field: str | None = None,
        retry_after: timedelta | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.category = Category(category)
        self.field = field
        self.retry_after = retry_after
        self.code = code

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


# From failures to errors. A category without an error of its own becomes ModelFailed.
_ERRORS: Final[dict[Category, type[PenstockError]]] = {
    Category.BAD_INPUT: InvalidInput,
    Category.RATE_LIMITED: Overloaded,
    Category.TIMEOUT: ModelTimeout,
    Category.PROVIDER_ERROR: ProviderFailed,
    Category.UNAVAILABLE: ModelUnavailable,
    Category.INTERNAL: ModelFailed,
}
# From the stable codes of errors, which HTTP responses also carry, to categories. Every other code is INTERNAL.
_CATEGORIES: Final = {
    **{error.code: category for category, error in _ERRORS.items()},
    "malformed_body": Category.BAD_INPUT,
    "poison_input": Category.BAD_INPUT,
    "too_large": Category.BAD_INPUT,
    "unsupported": Category.BAD_INPUT,
    "not_found": Category.UNAVAILABLE,  # the model is not registered there, or not yet
    "model_broken": Category.UNAVAILABLE,
    "app_unavailable": Category.UNAVAILABLE,
    "database_unavailable": Category.RATE_LIMITED,  # the service is unavailable for a while
    "schema_mismatch": Category.RATE_LIMITED,
    "blob_store_unavailable": Category.RATE_LIMITED,
    "unreachable": Category.RATE_LIMITED,
    "quota_exceeded": Category.RATE_LIMITED,
    "price_missing": Category.UNAVAILABLE,  # until the operator states one
}


def error_of(failure: CallFailed, what: str = "") -> PenstockError:
    """Return the error that reports a failure to the caller of a service; ``what`` precedes the message."""
    error = _error_of(failure, what)
    error.engine_code = failure.code
    return error


def _error_of(failure: CallFailed, what: str) -> PenstockError:
    if failure.category is Category.BAD_INPUT:
        return InvalidInput.of(failure.field or "body", failure.message)
    message = f"{what}: {failure.message}" if what else failure.message
    if failure.category is Category.RATE_LIMITED:
        return Overloaded(message, retry_after=failure.retry_after)
    return _ERRORS.get(failure.category, ModelFailed)(message)


def failure_of(error: PenstockError, *, where: str = "input") -> CallFailed:
    """Return the failure that reports a service's error to the work that called it; ``where`` precedes fields."""
    category = category_of(error.code)
    retry_after = error.retry_after if isinstance(error, Overloaded | QuotaExceeded) else None
    if isinstance(error, InvalidInput):
        prefix = f"{where}." if where else ""
        first, *more = error.problems
        others = "".join(f"; {prefix}{one.field}: {one.detail}" for one in more)
        return CallFailed(category, first.detail + others, field=prefix + first.field, code=error.engine_code)
    field = where or None if category is Category.BAD_INPUT else None
    return CallFailed(category, error.message, field=field, retry_after=retry_after, code=error.engine_code)


def category_of(code: str) -> Category:
    """Return the category of an error by its stable code."""
    return _CATEGORIES.get(code, Category.INTERNAL)
