"""The assembly of a housekeeper."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from penstock.apps.marketplace import MarketplaceMessages
from penstock.apps.recorder import AppRecorder
from penstock.apps.result_retention import AppResultRetention
from penstock.apps.retention import AppRetention
from penstock.apps.timeouts import AppTimeouts
from penstock.assembly.shared import Shared
from penstock.blobs.reconciler import Reconciler
from penstock.callbacks import duties as callbacks
from penstock.callbacks.marketplace import POLICY, Marketplace
from penstock.callbacks.sender import Sender
from penstock.collections.duties import CollectionIndexes, CollectionUpkeep
from penstock.events.positions import Positions
from penstock.flows.duties import FlowKeeper
from penstock.housekeeping.admitter import Admitter
from penstock.housekeeping.counters import Counters
from penstock.housekeeping.expirer import Expirer
from penstock.housekeeping.hints import Hints
from penstock.housekeeping.housekeeper import Housekeeper, until_signal
from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.housekeeping.retention import Retention
from penstock.housekeeping.sweeper import Sweeper
from penstock.housekeeping.tenant_removal import TenantRemoval
from penstock.jobs import callbacks as job_callbacks
from penstock.jobs.events import JobExpansion
from penstock.jobs.limits import JobLimits
from penstock.jobs.names import Names
from penstock.part import Part, started
from penstock.postgres.wakeups import Wakeups
from penstock.quotas.duties import QuotaExpiry
from penstock.settings import Settings
from penstock.usage.duties import UsageRetention, UsageRollUp


class HousekeeperAssembly(Shared):
    """The duties of a housekeeper."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, role="housekeeper")
        self._retention = timedelta(days=settings.penstock_retention_days)

    @cached_property
    def wakeups(self) -> Wakeups:
        return Wakeups(self.database)

    @cached_property
    def housekeeper(self) -> Housekeeper:
        """All duties; they run concurrently."""
        return Housekeeper(self.wakeups, [duty for part in self.parts for duty in part.duties])

    @cached_property
    def parts(self) -> list[Part]:
        """The parts, in the order in which they start; they stop in reverse. Raises SettingsError."""
        database, wakeups = self.database, self.wakeups
        sweeper = Sweeper(database, self.blobs)
        return [
            Part(
                duties=[
                    Rescuer(database, JobLimits.from_settings(self.settings), wakeups),
                    Promoter(database, wakeups),
                    Expirer(database, wakeups),
                    Counters(database),
                    Hints(database),
                    Admitter(database, wakeups),
                    Retention(database, self._retention),
                ]
            ),
            Part(
                duties=[
                    UsageRollUp(database),
                    UsageRetention(
                        database,
                        timedelta(days=self.settings.penstock_usage_detail_days),
                        keep_users=timedelta(days=self.settings.penstock_usage_user_days),
                    ),
                ]
            ),
            Part(duties=[QuotaExpiry(database)]),
            Part(duties=[FlowKeeper(database, wakeups)]),
            Part(duties=[CollectionUpkeep(database, wakeups, keep=self._retention), CollectionIndexes(database)]),
            Part(duties=[Positions(database)]),
            Part(
                duties=[
                    AppRecorder(database),
                    AppTimeouts(database, wakeups),
                    AppResultRetention(database),
                    AppRetention(
                        database,
                        keep=timedelta(days=self.settings.penstock_app_request_days),
                        keep_users=timedelta(days=self.settings.penstock_usage_user_days),
                    ),
                ]
            ),
            Part(duties=[sweeper, Reconciler(database, self.blobs.stores), TenantRemoval(database, sweeper, wakeups)]),
            Part(duties=callbacks.duties(database, wakeups, self.sending)),
            Part(duties=self.brokers.duties(database)),
            *self.brokers.parts(wakeups),
        ]

    @property
    def sending(self) -> callbacks.Sending:
        """What sends the callbacks of jobs."""
        settings = self.settings
        return callbacks.Sending(
            sender=Sender(self.callback_policy, timeout=settings.penstock_callback_timeout),
            sealing=self.callback_sealing,
            expansions=lambda tenant: {"job": JobExpansion(Names(self.database, tenant))},
            details={"job": job_callbacks.details},
            marketplace=self.marketplace,
            keep_delivered=timedelta(days=settings.penstock_callback_retention_days),
            keep_jobs=self._retention,
            concurrency=settings.penstock_callback_concurrency,
        )

    @property
    def marketplace(self) -> Marketplace | None:
        """How this process reaches the marketplace, if the settings name one."""
        settings = self.settings
        if settings.marketplace_callback is None:
            return None
        return Marketplace(
            url=settings.marketplace_callback.reveal(),
            token=settings.marketplace_token,
            sender=Sender(POLICY, timeout=settings.penstock_callback_timeout),
            bodies=MarketplaceMessages(self.database, self.blob_links, settings.penstock_url).bodies,
        )


async def run(assembly: HousekeeperAssembly) -> None:
    """Run the process ``penstock housekeeper``."""
    try:
        async with started(assembly.parts):
            await until_signal(assembly.housekeeper)
    finally:
        await assembly.close()
