"""Lease a tenant's jobs to workers, and take back those whose worker disconnected before it received them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg
import msgspec

from penstock.failures import Category
from penstock.jobs.announcements import announce
from penstock.jobs.job import ClaimedJob, ClaimRequest, Failure
from penstock.jobs.names import Names
from penstock.jobs.queues import ServedQueues
from penstock.jobs.shared import POLL_INTERVAL, Shared
from penstock.jobs.slots import Slots
from penstock.jobs.sql import store
from penstock.jobs.writers import TenantWriters
from penstock.processes.waiting import set_within
from penstock.tenants.principal import TenantId


class Claiming:
    """The part of ``TenantJobs`` that grants leases."""

    tenant: TenantId
    _shared: Shared
    _names: Names
    _writers: TenantWriters
    queues: ServedQueues

    async def claim(self, request: ClaimRequest, slots: Slots | None = None) -> list[ClaimedJob]:
        """Lease ready jobs, waiting up to ``wait_seconds`` for the first.

        Each job returned takes one of ``slots``. Cancelling the caller loses nothing: jobs that were being leased for
        it are handed back.
        """
        self.queues.note(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_seconds
        with self._shared.claims.waiting(request) as news:
            while True:
                news.clear()
                if slots is None:
                    jobs = await self._claim_or_hand_back(request)
                else:
                    jobs = await self._claim_into(slots, request, deadline - loop.time())
                left = deadline - loop.time()
                if jobs or left <= 0:
                    return jobs
                await set_within(news, min(left, POLL_INTERVAL.total_seconds()))

    async def _claim_into(self, slots: Slots, request: ClaimRequest, seconds: float) -> list[ClaimedJob]:
        """Wait for a free slot, then claim as many jobs as there are free slots."""
        unused = await slots.take(request.limit, seconds=seconds)
        if not unused:
            return []
        try:
            jobs = await self._claim_or_hand_back(msgspec.structs.replace(request, limit=unused))
            unused -= len(jobs)
            return jobs
        finally:
            slots.give_back(unused)

    def hand_back(self, jobs: Sequence[ClaimedJob]) -> None:
        """Return jobs to ready whose worker left before it received them. This costs them no attempt."""
        for job in jobs:
            report = Failure(
                epoch=job.epoch, category=Category.SHUTDOWN, message="the worker left before it received the job"
            )
            future = self._writers.failures.put((job.id, report))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _claim_or_hand_back(self, request: ClaimRequest) -> list[ClaimedJob]:
        claiming = asyncio.ensure_future(self._claim_now(request))
        self._shared.claiming.add(claiming)
        claiming.add_done_callback(self._shared.claiming.discard)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._hand_back_claimed)
            raise

    def _hand_back_claimed(self, claiming: asyncio.Future[list[ClaimedJob]]) -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self.hand_back(claiming.result())

    async def _claim_now(self, request: ClaimRequest) -> list[ClaimedJob]:
        shared, lease = self._shared, self._shared.limits.lease
        kind = (self.tenant, tuple(request.task_types), tuple(request.model_profiles))
        async with shared.database.acquire() as connection:
            rows = await store.claim(
                connection, self.tenant, request, lease=lease, cursors=shared.cursors.current(), from_start=False
            )
            if not rows and shared.full_looks.due(kind):
                began = time.monotonic()
                rows = await store.claim(connection, self.tenant, request, lease=lease, cursors={}, from_start=True)
                shared.full_looks.took(kind, time.monotonic() - began)
            names = await self._names.describe(connection, {row["series_id"] for row in rows}) if rows else {}
        for row in rows:
            shared.cursors.took(row["lane_id"], row["reached_seq"])
        if rows:
            announce(shared.wakeups)
        return [_as_claimed(row, names[row["series_id"]]) for row in rows]


def _as_claimed(row: asyncpg.Record, names: tuple[str, str, str]) -> ClaimedJob:
    owner_service, task_type, model_profile = names
    return ClaimedJob(
        id=row["job_id"],
        epoch=row["epoch"],
        owner_service=owner_service,
        owner_ref=row["owner_ref"],
        task_type=task_type,
        model_profile=model_profile,
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        lease_expires_at=row["lease_until"],
        created_at=row["created_at"],
        tags=row["tags"] or [],
        input=row["input"],
    )
