"""Retry and cancel a tenant's jobs, one by id or all that a filter selects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec

from penstock.errors import WrongState
from penstock.jobs import search
from penstock.jobs.announcements import FLOW, announce, announce_mail
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Job
from penstock.jobs.reading import Reading
from penstock.jobs.sql import store
from penstock.jobs.states import Status, may_cancel, may_retry
from penstock.quotas import store as quota_store

_CHUNK = 1000  # jobs changed by one statement of a retry or cancel by filter


class Changing(Reading):
    """The part of ``TenantJobs`` that retries and cancels."""

    async def retry(self, job_id: UUID) -> Job:
        """Return a failed or running job to pending; a running one loses its lease. Raises NotFound and WrongState."""
        while not await self._retry_some([job_id]):
            job = await self.get(job_id)
            if not may_retry(job.status):
                raise WrongState(f"job {job_id} is {job.status}; only failed and running jobs can be retried")
            if job.task_type == FLOW:
                raise WrongState(f"job {job_id} is a run of a flow; retry it by /api/v1/flows/runs/{job_id}/retry")
            if job.status is Status.FAILED and job.parent_id is not None:
                raise WrongState(f"job {job_id} belongs to the run {job.parent_id}, which has not ended; retry the run")
        return await self.get(job_id)

    async def cancel(self, job_id: UUID) -> Job:
        """Cancel a pending job, or request that a running one, or the run of a flow, stop.

        Raises NotFound, and WrongState if it has already ended in another way.
        """
        while not await self._cancel_some([job_id]):
            job = await self.get(job_id)
            if job.status is Status.CANCELLED:
                return job
            if not may_cancel(job.status):
                raise WrongState(f"job {job_id} is {job.status}; only jobs that have not ended can be cancelled")
        return await self.get(job_id)

    async def retry_where(self, where: JobFilter, *, dry_run: bool) -> int:
        """Retry every failed or running job that the filter selects, in chunks; returns how many."""
        return await self._change_where(where, (Status.FAILED, Status.RUNNING), None if dry_run else self._retry_some)

    async def cancel_where(self, where: JobFilter, *, dry_run: bool) -> int:
        """Cancel every job that has not ended and that the filter selects, in chunks; returns how many."""
        unfinished = (Status.PENDING, Status.RUNNING, Status.WAITING)
        return await self._change_where(where, unfinished, None if dry_run else self._cancel_some)

    async def _change_where(
        self,
        where: JobFilter,
        allowed: tuple[Status, ...],
        change: Callable[[Sequence[UUID]], Awaitable[int]] | None,
    ) -> int:
        """Change the jobs that match, status by status; without ``change`` only count them."""
        total = 0
        for status in allowed:
            if where.status and status not in where.status:
                continue
            narrowed = msgspec.structs.replace(where, status=[status])
            cursor: str | None = None
            while True:
                async with self._shared.database.acquire() as connection:
                    page = await search.page(connection, self.tenant, narrowed, limit=_CHUNK, cursor=cursor)
                ids = [job.id for job in page.jobs]
                if ids:
                    total += await change(ids) if change else len(ids)
                cursor = page.next_cursor
                if cursor is None:
                    break
        return total

    async def _retry_some(self, job_ids: Sequence[UUID]) -> int:
        async with self._shared.database.acquire() as connection, connection.transaction():
            retried, blocked = await store.retry(connection, self.tenant, job_ids)
            if retried:
                await quota_store.count_jobs(connection, self.tenant, sorted(retried))
        self._shared.admissions.request(blocked)
        if retried:
            announce(
                self._shared.wakeups, ready=Counter((self.tenant, *queue) for queue in retried.values()), cancelled=True
            )
        return len(retried)

    async def _cancel_some(self, job_ids: Sequence[UUID]) -> int:
        async with self._shared.database.acquire() as connection:
            found, freed, mailed = await store.cancel(connection, self.tenant, job_ids)
        self._shared.admissions.request([*freed, *mailed.blocked])
        if found:
            announce(
                self._shared.wakeups,
                finished=[job_id for job_id, status in found.items() if status is Status.CANCELLED],
                cancelled=Status.RUNNING in found.values(),
            )
            announce_mail(self._shared.wakeups, self.tenant, mailed)
        return len(found)
