"""What a call's end in a replica is to its caller: one table from kind to error."""

from __future__ import annotations

from datetime import timedelta

from penstock.errors import (
    InvalidInput,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    Overloaded,
    PenstockError,
    ProviderFailed,
)
from penstock.models.replica import frames

_LONGEST_WAIT = 3600.0  # seconds


def error_of(failed: frames.FailureHeader, model: str, message: str) -> PenstockError:
    """The error for a failure of a model's call; ``message`` is the failure's own, without secrets."""
    told = f"model {model}: {message}"
    match failed.kind:
        case "bad_input":
            return InvalidInput.of(failed.field or "body", message)
        case "rate_limited":
            wait = min(failed.retry_after, _LONGEST_WAIT) if failed.retry_after else None
            return Overloaded(told, retry_after=None if wait is None else timedelta(seconds=wait))
        case "timeout":
            return ModelTimeout(told)
        case "provider":
            return ProviderFailed(told)
        case "unavailable":
            return ModelUnavailable(told)
        case _:
            return ModelFailed(told)
