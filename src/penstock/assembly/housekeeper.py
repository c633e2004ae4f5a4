"""The assembly of a housekeeper."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.assembly.brokers import Brokers
from penstock.assembly.shared import blob_service
from penstock.blobs.reconciler import Reconciler
from penstock.blobs.service import BlobService
from penstock.callbacks import duties as callbacks
from penstock.callbacks.sealing import Sealing
from penstock.callbacks.sender import Sender, policy_of
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
from penstock.postgres.address import database_url
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.quotas.duties import QuotaExpiry
from penstock.settings import Settings
from penstock.usage.duties import UsageRetention, UsageRollUp


def build_housekeeper(
    database: Database,
    limits: JobLimits,
    *,
    retention: timedelta,
    usage_detail: timedelta | None = None,
    sending: callbacks.Sending | None = None,
    blobs: BlobService | None = None,
    others: Sequence[Periodic] = (),
) -> Housekeeper:
    """Return all duties, which run concurrently.

    The detail of usage is kept as long as jobs, and files are in PostgreSQL only, unless stated. Without ``sending`` no
    callbacks are sent.
    """
    blobs = blobs or BlobService(database, max_bytes=0, keep=retention)
    wakeups = Wakeups(database)
    sweeper = Sweeper(database, blobs)
    parts = [
        Part(
            duties=[
                Rescuer(database, limits, wakeups),
                Promoter(database, wakeups),
                Expirer(database, wakeups),
                Counters(database),
                Hints(database),
                Admitter(database, wakeups),
                Retention(database, retention),
            ]
        ),
        Part(duties=[UsageRollUp(database), UsageRetention(database, usage_detail or retention)]),
        Part(duties=[QuotaExpiry(database)]),
        Part(duties=[FlowKeeper(database, wakeups)]),
        Part(duties=[Positions(database)]),
        Part(duties=[sweeper, Reconciler(database, blobs.stores), TenantRemoval(database, sweeper, wakeups)]),
        Part(duties=others),
    ]
    if sending is not None:
        parts.append(Part(duties=callbacks.duties(database, wakeups, sending)))
    return Housekeeper(wakeups, [duty for part in parts for duty in part.duties])


def build_sending(database: Database, settings: Settings) -> callbacks.Sending:
    """Return what sends the callbacks of jobs."""
    instance = Instance(database, SecretSource(settings.penstock_secret_key, settings.penstock_data_dir))
    return callbacks.Sending(
        sender=Sender(policy_of(settings.penstock_fetch_networks), timeout=settings.penstock_callback_timeout),
        sealing=Sealing(instance),
        expansions=lambda tenant: {"job": JobExpansion(Names(database, tenant))},
        details={"job": job_callbacks.details},
        keep_delivered=timedelta(days=settings.penstock_callback_retention_days),
        keep_jobs=timedelta(days=settings.penstock_retention_days),
        concurrency=settings.penstock_callback_concurrency,
    )


async def run(settings: Settings) -> None:
    """Run the process ``penstock housekeeper``."""
    database = Database(database_url(settings), application_name="penstock-housekeeper", max_size=8)
    brokers = Brokers(settings)
    housekeeper = build_housekeeper(
        database,
        JobLimits.from_settings(settings),
        retention=timedelta(days=settings.penstock_retention_days),
        usage_detail=timedelta(days=settings.penstock_usage_detail_days),
        sending=build_sending(database, settings),
        blobs=blob_service(settings, database),
        others=brokers.duties(database),
    )
    try:
        async with started(brokers.parts(housekeeper.wakeups)):
            await until_signal(housekeeper)
    finally:
        await database.close()
