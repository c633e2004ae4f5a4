"""Lease jobs to workers, and take back those whose worker disconnected before it received them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final

import asyncpg
import msgspec

from penstock.jobs.announcements import announce
from penstock.jobs.claims import Kind, Waiter
from penstock.jobs.names import ClaimedNames
from penstock.jobs.queues import ServedNotes
from penstock.jobs.shared import Shared
from penstock.jobs.slots import Slots
from penstock.jobs.sql import store
from penstock.jobs.sql.rows import Connection
from penstock.jobs.turns import Taken, Turns
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.tenants.principal import TenantId

_SETTLE_SECONDS: Final = 1.0  # that a cancelled claim waits for its statement
_MAX_KINDS: Final = 1000  # of claims, of which a process remembers the turns

HandBack = Callable[[Sequence[ClaimedJob]], None]


class Claiming:
    """Grants leases of one tenant's jobs, or of the jobs of all tenants (None).

    ``hand_back`` is called with jobs whose caller left while they were being leased for it.
    """

    def __init__(self, shared: Shared, tenant: TenantId | None, *, hand_back: HandBack) -> None:
        self._shared = shared
        self._tenant = tenant
        self._hand_back = hand_back
        self._notes = ServedNotes(shared.database, tenant)
        self._turns: dict[Kind, Turns] = {}

    async def stop(self) -> None:
        """Wait until the record of served queues is written."""
        await self._notes.stop()

    async def claim(self, request: ClaimRequest, slots: Slots | None = None) -> list[ClaimedJob]:
        """Lease ready jobs, waiting up to ``wait_seconds`` for the first.

        Each job returned takes one of ``slots``. Cancelling the caller loses nothing: jobs that were being leased for
        it are handed back.
        """
        self._notes.note(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_seconds
        with self._shared.claims.waiting(request, self._tenant) as waiter:
            await self._shared.places.settled()
            while True:
                jobs = await self._try(waiter, request, slots, seconds=deadline - loop.time())
                left = deadline - loop.time()
                if jobs or left <= 0:
                    return jobs
                self._shared.polls.begin()
                if not await self._shared.claims.wait(waiter, left):
                    return []

    async def _try(
        self, waiter: Waiter, request: ClaimRequest, slots: Slots | None, *, seconds: float
    ) -> list[ClaimedJob]:
        """Claim once, and report the outcome to the offers that the claim was woken for."""
        waiter.news.clear()
        offers, waiter.offers = waiter.offers, []
        jobs: list[ClaimedJob] = []
        try:
            if slots is None:
                jobs = await self._claim_or_hand_back(request)
            else:
                jobs = await self._claim_into(slots, waiter, request, seconds)
            return jobs
        finally:
            for offer in offers:
                offer.tried([(self._shared.names.tenant(job.tenant), job.task_type, job.model_profile) for job in jobs])

    async def _claim_into(
        self, slots: Slots, waiter: Waiter, request: ClaimRequest, seconds: float
    ) -> list[ClaimedJob]:
        """Wait for a free slot, then claim as many jobs as there are free slots."""
        waiter.has_slot = False
        unused = await slots.take(request.limit, seconds=seconds)
        waiter.has_slot = True
        if not unused:
            return []
        try:
            jobs = await self._claim_or_hand_back(msgspec.structs.replace(request, limit=unused))
            unused -= len(jobs)
            return jobs
        finally:
            slots.give_back(unused)

    async def _claim_or_hand_back(self, request: ClaimRequest) -> list[ClaimedJob]:
        claiming = asyncio.ensure_future(self._claim_now(request))
        self._shared.claiming.add(claiming)
        claiming.add_done_callback(self._shared.claiming.discard)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._hand_back_claimed)
            # Its statement must not take jobs that the caller hands back next, as a worker that stops does.
            await asyncio.wait([claiming], timeout=_SETTLE_SECONDS)
            raise

    def _hand_back_claimed(self, claiming: asyncio.Future[list[ClaimedJob]]) -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self._hand_back(claiming.result())

    async def _claim_now(self, request: ClaimRequest) -> list[ClaimedJob]:
        shared, lease = self._shared, self._shared.limits.lease
        kind = (tuple(request.task_types), tuple(request.model_profiles))
        async with shared.database.acquire() as connection:
            rows = await self._rows(connection, request, kind)
            if not rows and shared.full_scans.due((self._tenant, kind)):
                began = time.monotonic()
                rows = await store.claim(connection, self._tenant, request, lease=lease, turns={}, cursors=None)
                shared.full_scans.took((self._tenant, kind), time.monotonic() - began)
            names = await shared.names.describe(connection, rows)
        for lane, row in _by_lane(rows).items():
            shared.cursors.took(lane, row["reached_seq"])
        if rows:
            announce(shared.wakeups)
        return [_as_claimed(row, names) for row in rows]

    async def _rows(self, connection: Connection, request: ClaimRequest, kind: Kind) -> list[asyncpg.Record]:
        """Claim from the tenants whose turn it is; as long as they have no jobs, it is the next ones' turn."""
        turns = self._turns_of(kind)
        while True:
            plan = turns.plan(request.limit)
            try:
                rows = await store.claim(
                    connection,
                    self._tenant,
                    request,
                    lease=self._shared.limits.lease,
                    turns=plan.quanta,
                    cursors=self._shared.cursors.current(),
                )
            except BaseException:
                turns.abandon(plan)
                raise
            turns.settle(plan, _taken(rows))
            if rows or not plan.skips:
                return rows

    def _turns_of(self, kind: Kind) -> Turns:
        turns = self._turns.get(kind)
        if turns is None:
            if len(self._turns) >= _MAX_KINDS:
                self._turns.clear()
            turns = self._turns[kind] = Turns()
        return turns


def _taken(rows: Sequence[asyncpg.Record]) -> dict[TenantId, Taken]:
    """Return what claimed rows took of each tenant."""
    jobs = Counter(map(itemgetter("lane_id"), rows))
    taken: dict[TenantId, Taken] = {}
    for lane, row in _by_lane(rows).items():
        tenant = row["tenant_id"]
        count = jobs[lane] + (taken[tenant].jobs if tenant in taken else 0)
        taken[tenant] = Taken(jobs=count, cost=count, weight=row["weight"])
    return taken


def _by_lane(rows: Sequence[asyncpg.Record]) -> dict[int, asyncpg.Record]:
    """Return a row of each lane, for the values that all its rows share."""
    return {row["lane_id"]: row for row in rows}


def _as_claimed(row: asyncpg.Record, names: ClaimedNames) -> ClaimedJob:
    tenant, owner_service, task_type, model_profile = names[row["series_id"]]
    return ClaimedJob(
        id=row["job_id"],
        epoch=row["epoch"],
        tenant=tenant,
        owner_service=owner_service,
        owner_ref=row["owner_ref"],
        user_id=row["user_id"],
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
