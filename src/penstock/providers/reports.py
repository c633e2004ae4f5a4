"""The state of a provider in one worker, as workers report it and the status page shows it."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from penstock.outbound.gate import Gate


class LastError(Struct, frozen=True, kw_only=True):
    """The last time a provider failed. The message holds no secret."""

    category: str
    message: str
    at: datetime


class ProviderReport(Struct, frozen=True, kw_only=True):
    """The state of one provider in one worker."""

    breaker: str  # closed, open or half_open
    failures_in_a_row: int
    wait_seconds: float  # seconds until the next call may begin, at the time of the report
    running: int  # running calls
    concurrency: int  # the limit on running calls
    last_error: LastError | None = None


def report_of(gate: Gate) -> ProviderReport:
    """Return the state of a provider in this process."""
    failure = gate.last_failure
    error = None
    if failure is not None:
        error = LastError(category=failure.category, message=failure.message, at=failure.at)
    return ProviderReport(
        breaker=gate.breaker.state.value,
        failures_in_a_row=gate.breaker.failures,
        wait_seconds=round(gate.wait(), 1),
        running=gate.running,
        concurrency=gate.concurrency,
        last_error=error,
    )
