"""The housekeeper: every background duty in one process. Any number of them may run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from penstock.events.positions import Positions
from penstock.events.tail import EVENTS
from penstock.housekeeping.counters import Counters
from penstock.housekeeping.expirer import Expirer
from penstock.housekeeping.hints import Hints
from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.housekeeping.retention import Retention
from penstock.housekeeping.sweeper import Sweeper
from penstock.jobs.limits import JobLimits
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.processes.periodic import Periodic
from penstock.processes.stopping import on_signals
from penstock.settings import Settings
from penstock.telemetry import logs

log = logs.get(__name__)


class Housekeeper:
    """Rescue, promotion, expiry, counters, hints, positions of events, retention and sweeping, side by side."""

    def __init__(self, database: Database, limits: JobLimits, *, retention: timedelta) -> None:
        self.wakeups = Wakeups(database)
        self.wakeups.subscribe(EVENTS, self._wake)  # each change of a job stores an event
        self.duties: list[Periodic] = [
            Rescuer(database, limits, self.wakeups),
            Promoter(database, self.wakeups),
            Expirer(database, self.wakeups),
            Counters(database),
            Hints(database),
            Positions(database),
            Retention(database, retention),
            Sweeper(database),
        ]

    def _wake(self, _keys: Keys) -> None:
        for duty in self.duties:
            duty.wake()

    async def run(self) -> None:
        """Do all duties until ``stop``."""
        self.wakeups.start()
        try:
            await asyncio.gather(*(duty.run() for duty in self.duties))
        finally:
            await self.wakeups.stop()

    async def stop(self) -> None:
        """End every duty after its pass in hand."""
        await asyncio.gather(*(duty.stop() for duty in self.duties))


async def run(settings: Settings) -> None:
    """The process ``penstock housekeeper``: on duty until SIGTERM or SIGINT."""
    database = Database(database_url(settings), application_name="penstock-housekeeper", max_size=4)
    housekeeper = Housekeeper(
        database,
        JobLimits.from_settings(settings),
        retention=timedelta(days=settings.penstock_retention_days),
    )
    stopping = asyncio.Event()
    log.info("housekeeper_started")
    running = asyncio.create_task(housekeeper.run())
    asked = asyncio.create_task(stopping.wait())
    try:
        with on_signals(stopping.set):
            await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)  # duties end when told to only
            await housekeeper.stop()
            await running
    finally:
        asked.cancel()
        await database.close()
    log.info("housekeeper_stopped")
