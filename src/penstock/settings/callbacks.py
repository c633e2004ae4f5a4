"""Settings of callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from penstock.settings.kinds import MILLISECOND, duration, integer
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class CallbackSettings:
    """Callbacks."""

    penstock_callback_timeout: timedelta = setting(
        duration(100 * MILLISECOND, timedelta(minutes=2)), timedelta(seconds=15), "time limit of a receiver's response"
    )
    penstock_callback_concurrency: int = setting(
        integer(1, 128), 16, "requests to one endpoint at a time; slow and failing endpoints get fewer"
    )
    penstock_callback_retention_days: int = setting(
        integer(1, 3650), 7, "delivered callbacks are dropped after this time; dead ones are kept as long as jobs"
    )
