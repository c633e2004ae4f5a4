"""Read a tenant's jobs: one job, now or once it has finished, a page of jobs, and their counters."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Collection, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from penstock.errors import NotFound
from penstock.jobs import search, statistics
from penstock.jobs.counts import Stats
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Job, JobPage
from penstock.jobs.polling import POLL_INTERVAL
from penstock.jobs.shared import Shared
from penstock.jobs.sql import reading
from penstock.jobs.sql.reading import UsedByJob
from penstock.jobs.states import Status
from penstock.processes.waiting import set_within
from penstock.tenants.principal import TenantId

T = TypeVar("T")


class Reading:
    """The part of ``TenantJobs`` that only reads."""

    tenant: TenantId
    _shared: Shared

    async def get(self, job_id: UUID) -> Job:
        """Return the whole job; raises NotFound."""
        results = self._shared.results
        if results is not None and (copy := await results.get(self.tenant, job_id)) is not None:
            return copy
        job = await self._read(job_id)
        if results is not None:
            await results.put(self.tenant, job)
        return job

    async def _read(self, job_id: UUID) -> Job:
        async with self._shared.database.acquire() as connection:
            job = (await reading.get(connection, self.tenant, [job_id])).get(job_id)
            if job is None:
                raise NotFound(f"there is no job {job_id}")
            if job.attempt > 1 or (job.attempt == 1 and job.status not in {Status.RUNNING, Status.COMPLETED}):
                attempts = await reading.attempts(connection, self.tenant, job_id)
                job = msgspec.structs.replace(job, attempts=attempts)
        return job

    async def wait(self, job_id: UUID, timeout: timedelta) -> Job:
        """Return the job once it has finished, or as it is after ``timeout``; raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        with self._shared.finish_waiters.waiting(job_id) as news:
            while True:
                news.clear()
                job = await _to_its_end(self.get(job_id))
                left = deadline - loop.time()
                if job.status.finished or left <= 0:
                    return job
                await set_within(news, min(left, POLL_INTERVAL.total_seconds()))

    async def list(self, where: JobFilter, *, limit: int = 100, cursor: str | None = None) -> JobPage:
        """Return a page of jobs, newest first; raises InvalidInput for a foreign cursor."""
        async with self._shared.database.acquire() as connection:
            return await search.page(connection, self.tenant, where, limit=limit, cursor=cursor)

    async def usage_of(self, job_ids: Sequence[UUID]) -> builtins.list[UsedByJob]:
        """Return what jobs used of providers, attempt by attempt, and the agreement stored in their results."""
        async with self._shared.database.acquire() as connection:
            return await reading.usage_of(connection, self.tenant, job_ids)

    async def stats(self, queues: Collection[tuple[str, str]] | None = None) -> Stats:
        """Return counters per queue and owner, of some queues or of all; no rows are counted."""
        async with self._shared.database.acquire() as connection:
            return await statistics.gather(connection, self.tenant, queues)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which runs to its end even when the caller is cancelled: cancelling a statement
    needs another connection, and waiting callers disconnect all the time."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the result is no longer wanted
        raise
