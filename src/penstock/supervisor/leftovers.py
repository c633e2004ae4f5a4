"""Requeue the jobs of a dead worker at once.

This happens only with the embedded PostgreSQL, whose data folder one supervisor locks, so that no other process uses
the names of this supervisor's workers. On the user's own server another machine may use the same names; there the
leases must expire.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.settings import Settings
from penstock.telemetry import logs

_TIMEOUT: Final = timedelta(seconds=10)  # the database may be restarting too

log = logs.get(__name__)


async def hand_on(url: str, settings: Settings, worker_id: str) -> None:
    """Requeue the jobs that the worker of this name still holds; the worker is known to be dead."""
    # Imported here, while the children start, because the supervisor itself does not need it.
    from penstock.housekeeping.rescuer import rescue_from  # noqa: PLC0415
    from penstock.jobs.limits import JobLimits  # noqa: PLC0415
    from penstock.postgres.pool import Database  # noqa: PLC0415

    database = Database(url, application_name="penstock-supervisor", max_size=1)
    try:
        await database.open(timeout=_TIMEOUT)
        jobs = await rescue_from(database, JobLimits.from_settings(settings), [worker_id])
        if jobs:
            log.info("jobs_handed_on", worker_id=worker_id, jobs=jobs)
    except DatabaseUnavailable:
        log.warning(
            "handing_on_failed", worker_id=worker_id, reason="the database is unavailable; the leases must expire"
        )
    finally:
        await database.close()
