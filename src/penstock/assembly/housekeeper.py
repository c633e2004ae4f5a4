"""The assembly of a housekeeper."""

from __future__ import annotations

from datetime import timedelta

from penstock.assembly.brokers import Brokers
from penstock.events.positions import Positions
from penstock.housekeeping.counters import Counters
from penstock.housekeeping.expirer import Expirer
from penstock.housekeeping.hints import Hints
from penstock.housekeeping.housekeeper import Housekeeper, until_signal
from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.housekeeping.retention import Retention
from penstock.housekeeping.sweeper import Sweeper
from penstock.jobs.limits import JobLimits
from penstock.part import Part, started
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.quotas.duties import QuotaExpiry
from penstock.settings import Settings
from penstock.usage.duties import UsageRetention, UsageRollUp


def build_housekeeper(
    database: Database, limits: JobLimits, *, retention: timedelta, usage_detail: timedelta | None = None
) -> Housekeeper:
    """Return all duties, which run concurrently. The detail of usage is kept as long as jobs, unless stated."""
    wakeups = Wakeups(database)
    parts = [
        Part(
            duties=[
                Rescuer(database, limits, wakeups),
                Promoter(database, wakeups),
                Expirer(database, wakeups),
                Counters(database),
                Hints(database),
                Retention(database, retention),
            ]
        ),
        Part(duties=[UsageRollUp(database), UsageRetention(database, usage_detail or retention)]),
        Part(duties=[QuotaExpiry(database)]),
        Part(duties=[Positions(database)]),
        Part(duties=[Sweeper(database)]),
    ]
    return Housekeeper(wakeups, [duty for part in parts for duty in part.duties])


async def run(settings: Settings) -> None:
    """Run the process ``penstock housekeeper``."""
    database = Database(database_url(settings), application_name="penstock-housekeeper", max_size=4)
    housekeeper = build_housekeeper(
        database,
        JobLimits.from_settings(settings),
        retention=timedelta(days=settings.penstock_retention_days),
        usage_detail=timedelta(days=settings.penstock_usage_detail_days),
    )
    try:
        async with started(Brokers(settings).parts(housekeeper.wakeups)):
            await until_signal(housekeeper)
    finally:
        await database.close()
