"""How a provider's failure becomes a job's error."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.jobs.states import ErrorCategory
from penstock.outbound.failure import CallFailed

_CATEGORIES: Final = {
    "bad_input": ErrorCategory.BAD_INPUT,
    "rate_limited": ErrorCategory.RATE_LIMITED,
    "timeout": ErrorCategory.TIMEOUT,
    "cancelled": ErrorCategory.CANCELLED,
    "failed": ErrorCategory.INTERNAL,
}


def category_of(error: CallFailed) -> ErrorCategory:
    """The error category that tells a job's rules what to do."""
    return _CATEGORIES.get(error.kind, ErrorCategory.PROVIDER_ERROR)


class WorkFailed(Exception):
    """A job cannot be done now, or at all: ``category`` says which. Its message is its owner's to read: no secrets."""

    def __init__(
        self,
        category: ErrorCategory,
        message: str,
        *,
        field: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.category = category
        self.field = field  # of the input, such as "input.max_tokens"
        self.detail = message
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self.args[0])
