"""Failures of calls, as replicas send them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.failures import CallFailed
from penstock.models.replica import frames

_MAX_WAIT_SECONDS: Final = 3600.0


def failure_of(header: frames.FailureHeader, message: str) -> CallFailed:
    """Return the failure in a frame; ``message`` is the frame's own, without secrets."""
    wait = timedelta(seconds=min(header.retry_after, _MAX_WAIT_SECONDS)) if header.retry_after else None
    return CallFailed(header.category, message, field=header.field, retry_after=wait, code=header.code)
