"""Single passes of the housekeeper's duties."""

from __future__ import annotations

from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.jobs.limits import JobLimits
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from tests.support.databases import execute


def rescuer(database: Database, limits: JobLimits | None = None) -> Rescuer:
    """Return a rescuer that the test runs by hand, with ``once``."""
    return Rescuer(database, limits or JobLimits(), Wakeups(database))


async def rescue(database: Database, limits: JobLimits | None = None) -> None:
    """Run one pass of the rescuer as if it had been running every second, without a gap."""
    await execute(database, "UPDATE housekeeping SET last_at = clock() WHERE duty = 'rescue'")
    await rescuer(database, limits).once()


async def promote(database: Database, wakeups: Wakeups | None = None) -> None:
    """Run one pass of the promoter; ``wakeups`` are those of its process."""
    await Promoter(database, wakeups or Wakeups(database)).once()
