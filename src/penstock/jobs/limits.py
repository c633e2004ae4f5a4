"""Defaults for values that a job or a worker does not set."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from penstock.jobs.states import RetryPolicy
from penstock.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """Defaults and policies of this process."""

    max_attempts: int = 3
    lease: timedelta = timedelta(minutes=15)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    cancel_grace: timedelta = timedelta(seconds=30)

    @classmethod
    def from_settings(cls, settings: Settings) -> JobLimits:
        return cls(
            max_attempts=settings.penstock_max_attempts,
            lease=settings.worker_lease_timeout,
            retry=RetryPolicy(
                base=settings.penstock_retry_base,
                cap=settings.penstock_retry_cap,
                max_lost_leases=settings.penstock_max_lost_leases,
            ),
            cancel_grace=settings.penstock_cancel_grace,
        )
