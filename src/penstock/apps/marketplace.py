"""What the marketplace gets of a request that has ended: the body of the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Connection
from msgspec import Raw, Struct

from penstock.apps.results import with_links
from penstock.apps.views import Media
from penstock.blobs.links import BlobLinks
from penstock.callbacks.message import Delivery, Key
from penstock.jobs.filters import JobFilter
from penstock.jobs.http.submitting import APP_OWNER
from penstock.jobs.job import JobError, JobSummary
from penstock.jobs.sql import reading
from penstock.jobs.sql.reading import Described
from penstock.tenants.principal import TenantId

MAX_RESULT_BYTES: Final = 256 * 2**10  # of a result that a message has


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


class MarketplaceMessages:
    """Makes the bodies of messages. ``url`` is where the marketplace reaches the app's API, which serves files that are
    not in a bucket."""

    def __init__(self, links: BlobLinks, url: str) -> None:
        self._links = links
        self._url = url

    async def bodies(
        self, connection: Connection, tenant: TenantId, deliveries: Sequence[Delivery]
    ) -> Mapping[Key, bytes]:
        """Return the bodies by the keys of deliveries, whose subjects are requests."""
        ids = [UUID(one.subject) for one in deliveries]
        jobs = {job.id: job for job in await reading.matching(connection, tenant, ids, JobFilter())}
        results = await reading.described(connection, tenant, ids, at_most=MAX_RESULT_BYTES)
        found: dict[Key, bytes] = {}
        for one, job_id in zip(deliveries, ids, strict=True):
            ended = await self._ended(tenant, one, job_id, jobs.get(job_id), results.get(job_id))
            found[one.key] = msgspec.json.encode(ended)
        return found

    async def _ended(
        self, tenant: TenantId, delivery: Delivery, job_id: UUID, job: JobSummary | None, described: Described | None
    ) -> Ended:
        """Return what is known of a request now. It may have been retried since, or dropped by retention."""
        current = job is not None and job.finished_at == delivery.at
        result, media = None, list[Media]()
        if current and described is not None and delivery.kind == "job.completed":
            result, media = await with_links(described.result, self._links, tenant, base=self._url)
        return Ended(
            task_id=job_id,
            app="" if job is None else job.owner_service.removeprefix(APP_OWNER),
            user_id="" if job is None else job.user_id,
            status=delivery.kind.removeprefix("job."),
            created_at=None if job is None else job.created_at,
            started_at=job.started_at if current and job is not None else None,
            finished_at=delivery.at,
            result=result,
            result_bytes=described.result_bytes if current and described is not None and result is None else None,
            media=media,
            error=job.error if current and job is not None else None,
        )
