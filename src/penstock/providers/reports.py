"""How a provider stands with one worker: what workers report, and the status page shows."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class LastError(Struct, frozen=True, kw_only=True):
    """The last time a provider failed. The message holds no secret."""

    category: str
    message: str
    at: datetime


class ProviderReport(Struct, frozen=True, kw_only=True):
    """One provider as one worker sees it."""

    breaker: str  # closed, open or half_open
    failures_in_a_row: int
    wait_seconds: float  # until the next call may begin, at the time of the report
    running: int  # calls now
    concurrency: int  # calls at a time, at most
    last_error: LastError | None = None
