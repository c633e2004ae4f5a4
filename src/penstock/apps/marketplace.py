"""The bodies of messages to the marketplace about requests that have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Connection
from msgspec import Raw, Struct

from penstock.apps import catalogue, records
from penstock.apps.manifest import Price
from penstock.apps.results import with_links
from penstock.apps.statistics import usage_of
from penstock.apps.sums import Used
from penstock.apps.views import Media, RequestUsage
from penstock.blobs.links import BlobLinks
from penstock.callbacks.message import Delivery, Key
from penstock.jobs.fields import APP_OWNER
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import JobError, JobSummary
from penstock.jobs.sql import reading
from penstock.jobs.sql.reading import Described
from penstock.postgres import queries
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

MAX_RESULT_BYTES: Final = 256 * 2**10  # of a result that a message has
_MAX_ATTEMPTS: Final = 20_000  # of the jobs of all requests that are read together

_sql = queries.load(__file__, "marketplace.sql")


class Ended(Struct, frozen=True, kw_only=True):
    """A request that has ended, as the marketplace gets it."""

    task_id: UUID
    app: str
    user_id: str
    status: str
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime
    result: Raw | None  # files in it are URLs
    result_bytes: int | None  # of a result that is too large for a message; null: the message has it, or there is none
    media: list[Media]  # the files in the result
    error: JobError | None
    price_unit: str
    units: float  # of the price
    usage: RequestUsage | None  # null: the flow has had too many jobs to sum them up here; see the statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """The present state of a request. It may have been retried since it ended, or dropped by retention."""

    job: JobSummary | None
    described: Described | None
    price_unit: str
    units: float
    usage: RequestUsage | None


class MarketplaceMessages:
    """Makes the bodies of messages. ``url`` is where the marketplace reaches the app's API, which serves files that are
    not in a bucket."""

    def __init__(self, database: Database, links: BlobLinks, url: str) -> None:
        self._database = database
        self._links = links
        self._url = url

    async def bodies(self, tenant: TenantId, deliveries: Sequence[Delivery]) -> Mapping[Key, bytes]:
        """Return the bodies by the keys of deliveries, whose subjects are requests."""
        async with self._database.acquire() as connection:  # links need connections too, so it is released first
            known = await _known(connection, tenant, [UUID(one.subject) for one in deliveries])
        return {
            one.key: msgspec.json.encode(await self._ended(tenant, one, known[UUID(one.subject)])) for one in deliveries
        }

    async def _ended(self, tenant: TenantId, delivery: Delivery, known: _Known) -> Ended:
        job, described = known.job, known.described
        current = job if job is not None and job.finished_at == delivery.at else None  # else it was retried since
        result, media = None, list[Media]()
        if current is not None and described is not None and delivery.kind == "job.completed":
            result, media = await with_links(described.result, self._links, tenant, base=self._url)
        return Ended(
            task_id=UUID(delivery.subject),
            app="" if job is None else job.owner_service.removeprefix(APP_OWNER),
            user_id="" if job is None else job.user_id,
            status=delivery.kind.removeprefix("job."),
            created_at=None if job is None else job.created_at,
            started_at=None if current is None else current.started_at,
            finished_at=delivery.at,
            result=result,
            result_bytes=None if described is None or current is None or result is not None else described.result_bytes,
            media=media,
            error=None if current is None else current.error,
            price_unit=known.price_unit,
            units=known.units,
            usage=known.usage,
        )


async def _known(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, _Known]:
    jobs = {job.id: job for job in await reading.matching(connection, tenant, run_ids, JobFilter())}
    results = await reading.described(connection, tenant, run_ids, at_most=MAX_RESULT_BYTES)
    used = await _used(connection, tenant, run_ids)
    charged = await _charged(connection, tenant, jobs.values())
    found: dict[UUID, _Known] = {}
    for run_id in run_ids:
        unit, units = charged.get(run_id, ("", 0.0))
        found[run_id] = _Known(
            job=jobs.get(run_id),
            described=results.get(run_id),
            price_unit=unit,
            units=units,
            usage=None if used is None else usage_of(used.get(run_id, Used())),
        )
    return found


async def _used(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, Used] | None:
    """Return what the jobs of requests have used so far; None if they are too many. Records may not have it yet."""
    rows = await _sql.attempts.rows(connection, tenant_id=tenant, run_ids=list(run_ids), limit=_MAX_ATTEMPTS)
    if len(rows) == _MAX_ATTEMPTS:
        return None
    by_attempt = await records.usage_of(connection, tenant, [(row["job_id"], row["epoch"]) for row in rows])
    found: dict[UUID, Used] = {}
    for row in rows:
        used = by_attempt.get((row["job_id"], row["epoch"]), Used()).plus(Used(attempts=1))
        found[row["run_id"]] = found.get(row["run_id"], Used()).plus(used)
    return found


async def _charged(
    connection: Connection, tenant: TenantId, jobs: Iterable[JobSummary]
) -> dict[UUID, tuple[str, float]]:
    """Return the unit of each request's price, and how many it cost."""
    prices = {app.name: app.manifest.price for app in await catalogue.every(connection) if app.manifest is not None}
    apps = {job.id: job.owner_service.removeprefix(APP_OWNER) for job in jobs}
    priced = {run_id: (app, prices.get(app, Price())) for run_id, app in apps.items()}
    states = await records.states(
        connection, tenant, {run_id: (app, price.path) for run_id, (app, price) in priced.items()}
    )
    return {run_id: (priced[run_id][1].unit, float(state.units)) for run_id, state in states.items()}
