"""What a scrape of the metrics measures in the database, room by room."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from penstock.blobs.objects.stores import ObjectStores
from penstock.callbacks import deliveries
from penstock.callbacks import metrics as callback_metrics
from penstock.flows import metrics as flow_metrics
from penstock.flows.service import FlowService
from penstock.gateway import job_metrics
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database

Measure = Callable[[], Awaitable[None]]  # sets gauges; raises DatabaseUnavailable


def measures(database: Database, jobs: JobService, flows: FlowService, stores: ObjectStores) -> Sequence[Measure]:
    """Return them in the order in which they run."""

    async def measure_jobs() -> None:
        job_metrics.measure(await jobs.queues_of_all())

    async def measure_callbacks() -> None:
        async with database.acquire() as connection:
            callback_metrics.measure(await deliveries.backlogs(connection))

    async def measure_flows() -> None:
        flow_metrics.measure(await flows.catalogue.trouble())

    return (measure_jobs, measure_callbacks, measure_flows, stores.measure)
