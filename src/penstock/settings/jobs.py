"""Settings of jobs: sizes, attempts and retention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from penstock.settings.kinds import DAY, MEBIBYTE, MILLISECOND, count, duration, flag, integer, size
from penstock.settings.variable import Relation, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class JobSettings:
    """Jobs."""

    penstock_retention_days: int = setting(integer(1, 3650), 30, "finished jobs are dropped after this time")
    penstock_max_input_bytes: int = setting(size, MEBIBYTE, "largest input of one job")
    penstock_max_result_bytes: int = setting(size, 16 * MEBIBYTE, "largest result of one job")
    penstock_max_batch_bytes: int = setting(size, 64 * MEBIBYTE, "largest body of a batch request")
    penstock_strict_queues: bool = setting(
        flag, False, "refuse jobs whose queue no worker has served and no model or profile matches; false: only warn"
    )
    penstock_max_attempts: int = setting(count, 3, "attempts of a job that does not set max_attempts")
    penstock_max_lost_leases: int = setting(
        count, 5, "a job whose workers keep dying fails after this many lost leases"
    )
    penstock_retry_base: timedelta = setting(
        duration(MILLISECOND, DAY), timedelta(seconds=2), "wait before the first retry; doubles each time"
    )
    penstock_retry_cap: timedelta = setting(
        duration(MILLISECOND, DAY), timedelta(minutes=5), "longest wait before a retry"
    )
    penstock_cancel_grace: timedelta = setting(
        duration(timedelta(0), DAY),
        timedelta(seconds=30),
        "a cancelled job that does not stop loses its lease after this time",
    )


RELATIONS: Final = (
    Relation(
        blames="penstock_retry_cap",
        over=("penstock_retry_base", "penstock_retry_cap"),
        problem=lambda base, cap: "must not be less than PENSTOCK_RETRY_BASE" if cap < base else None,
    ),
    Relation(
        blames="penstock_max_batch_bytes",
        over=("penstock_max_input_bytes", "penstock_max_batch_bytes"),
        problem=lambda one, batch: "must not be less than PENSTOCK_MAX_INPUT_BYTES" if batch < one else None,
    ),
)
