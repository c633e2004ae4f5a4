"""The worker that claims its jobs directly from PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from penstock.errors import CallerError
from penstock.jobs.service import JobService
from penstock.jobs.slots import Slots
from penstock.jobs.work import ClaimedJob, ClaimRequest, Failure, HeartbeatResult, JobCompletion, JobHeartbeat, JobState
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId
from penstock.work.engine import Engine
from penstock.work.executors import Executors, Offer
from penstock.work.source import Duty
from penstock.workers.metrics import AttemptMetrics

log = logs.get(__name__)

_ended: Final = AttemptMetrics()
_WAIT_SECONDS: Final = 60.0  # for the first job of a claim
_HUNG = 120.0  # seconds without an iteration of the claim loop, despite free slots, after which it counts as hung


class ServiceSource:
    """The source of jobs that calls the job service directly: jobs of one tenant, or of all (None)."""

    def __init__(self, service: JobService, tenant: TenantId | None, slots: Slots) -> None:
        self._service = service
        self._claims = service if tenant is None else service.of(tenant)
        self._slots = slots

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
        """Claim jobs; wait long for them, because the service polls for all its waiting claims at once."""
        if request.wait_seconds:
            request = msgspec.structs.replace(request, wait_seconds=_WAIT_SECONDS)
        return await self._claims.claim(request, self._slots)

    async def heartbeat(self, tenant: str, beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatResult | CallerError]:
        return await self._service.named(tenant).heartbeat(beats)

    async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[JobState | CallerError]:
        return await self._service.named(tenant).complete_many(completions)

    async def fail(self, tenant: str, job_id: UUID, failure: Failure) -> JobState:
        return await self._service.named(tenant).fail(job_id, failure)


@dataclass(slots=True)
class _Totals:
    """Counters of several engines."""

    claimed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, engine: Engine) -> None:
        self.claimed += engine.claimed
        self.outcomes.update(engine.outcomes)


class Worker:
    """Runs jobs with its executors until it is stopped: up to ``limit`` at a time, however many executors there are.

    It serves all tenants, unless one is given.

    An offer may set a lower limit of its own. One engine serves each offer; engines come and go with the offers. The
    worker survives outages of the database: it keeps its running jobs, and reports them when the database is back.
    """

    def __init__(
        self,
        service: JobService,
        *,
        worker_id: str,
        executors: Executors,
        limit: int,
        lease: timedelta,
        poll: timedelta = timedelta(seconds=2),
        grace: timedelta = timedelta(seconds=30),
        max_result_bytes: int | None = None,
        tenant: TenantId | None = None,
    ) -> None:
        self.worker_id = worker_id
        self._service = service
        self._slots = Slots(limit)
        self._tenant = tenant
        self._executors = executors
        self._duty = Duty(  # the same for all offers, except for queues and limit
            worker_id=worker_id, limit=limit, lease=lease, poll=poll, grace=grace, max_result_bytes=max_result_bytes
        )
        self._started_at: float | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()  # the offers have changed, or it is time to stop
        self._engines: dict[Offer, Engine] = {}
        self._past = _Totals()  # counters of engines that have ended
        executors.subscribe(self._changed.set)
        service.poll_every(poll)

    async def run(self) -> None:
        """Work until ``stop``. A worker without executors waits until it has one."""
        self._started_at = time.monotonic()
        watching = asyncio.create_task(self._watch_cancellations())
        try:
            async with asyncio.TaskGroup() as group:
                while not self._stopping.is_set():
                    self._changed.clear()
                    self._follow_offers(group)
                    await self._changed.wait()
                for engine in self._engines.values():
                    group.create_task(engine.stop())
        finally:
            watching.cancel()
            self._stopped.set()

    def _follow_offers(self, group: asyncio.TaskGroup) -> None:
        """Start engines for new offers; let those of withdrawn offers finish their running jobs."""
        offers = self._executors.offers
        for offer in offers:
            if offer not in self._engines:
                duty = replace(
                    self._duty,
                    task_types=offer.task_types,
                    model_profiles=offer.model_profiles,
                    tenants=offer.tenants,
                    limit=self._limit_of(offer),
                )
                slots = offer.slots or self._slots
                engine = Engine(
                    ServiceSource(self._service, self._tenant, slots),
                    offer.executor,
                    duty,
                    log=log.bind(),
                    observe=_ended.observe,
                    slots=slots,
                    tenant_of=lambda name: self._service.named(name).tenant,
                )
                self._engines[offer] = engine
                group.create_task(self._serve(offer, engine))
        for offer, engine in self._engines.items():
            if offer not in offers:
                engine.withdraw()

    def _limit_of(self, offer: Offer) -> int:
        if offer.slots is not None:
            return min(offer.limit or offer.slots.limit, offer.slots.limit)
        return min(offer.limit or self._duty.limit, self._duty.limit)

    async def _serve(self, offer: Offer, engine: Engine) -> None:
        try:
            await engine.run()
        finally:
            if engine.withdrawn:
                del self._engines[offer]
                self._past.add(engine)

    async def stop(self) -> None:
        """Claim no more jobs, finish or hand back running ones within the grace period, and wait until that is done."""
        self._stopping.set()
        self._changed.set()
        if self._started_at is not None:
            await self._stopped.wait()

    async def _watch_cancellations(self) -> None:
        """Make the engines check, after a wake-up that a job was cancelled, whether it is one of theirs."""
        cancellations = self._service.cancellations
        while True:
            await cancellations.wait()
            cancellations.clear()
            for engine in self._engines.values():
                engine.check_leases()

    @property
    def ready(self) -> bool:
        """Whether jobs can be claimed: the worker runs, does not drain, and its last call to the database succeeded."""
        connected = all(engine.connected.is_set() for engine in self._engines.values() if not engine.draining)
        return self.healthy and not self._stopping.is_set() and connected

    @property
    def healthy(self) -> bool:
        """Whether the claim loops make progress. A database that is unavailable does not make a worker unhealthy."""
        if self._started_at is None:
            return False
        return not any(_hung(engine) for engine in self._engines.values())

    def status(self) -> dict[str, object]:
        """Return the worker's state for people and monitoring, without payloads."""
        state = "starting" if self._started_at is None else "running"
        if self._stopping.is_set():
            state = "stopped" if self._stopped.is_set() else "draining"
        totals = _Totals(claimed=self._past.claimed, outcomes=self._past.outcomes.copy())
        for engine in self._engines.values():
            totals.add(engine)
        return {
            "worker_id": self.worker_id,
            "state": state,
            "ready": self.ready,
            "uptime_seconds": round(time.monotonic() - self._started_at, 3) if self._started_at is not None else 0.0,
            "claimed": totals.claimed,
            "outcomes": dict(totals.outcomes),
            "executors": [_describe(engine) for engine in self._engines.values()],
        }


def _hung(engine: Engine) -> bool:
    has_room = len(engine.running) < engine.duty.limit
    return (
        has_room
        and not engine.draining
        and engine.turned_at is not None
        and time.monotonic() - engine.turned_at > _HUNG
    )


def _describe(engine: Engine) -> dict[str, object]:
    return {
        "task_types": engine.duty.task_types,
        "model_profiles": engine.duty.model_profiles,
        "limit": engine.duty.limit,
        "draining": engine.draining,
        "connected": engine.connected.is_set(),
        "running": [
            {
                "id": str(job.id),
                "epoch": job.epoch,
                "tenant": job.tenant,
                "task_type": job.task_type,
                "attempt": job.attempt,
            }
            for job in engine.running[:100]
        ],
        "running_count": len(engine.running),
    }
