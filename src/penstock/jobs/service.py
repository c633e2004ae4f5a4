"""The jobs of every tenant, in one process.

The rules are in ``states``, the SQL in ``sql``, the group commits in ``writers``, the use cases in ``tenant_jobs``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from penstock.callbacks.targets import CallbackTargets
from penstock.events.recent import RecentRows
from penstock.events.tail import EVENTS
from penstock.jobs import statistics
from penstock.jobs.admissions import Admissions
from penstock.jobs.announcements import CANCELLED, FINISHED, READY
from penstock.jobs.claiming import Claiming
from penstock.jobs.claims import ClaimQueue
from penstock.jobs.controls import Controls
from penstock.jobs.key_rules import KeyRules
from penstock.jobs.limits import JobLimits
from penstock.jobs.places import Places
from penstock.jobs.polling import ReadyPolls
from penstock.jobs.results import Results
from penstock.jobs.shared import Shared
from penstock.jobs.slots import Slots
from penstock.jobs.statistics import QueueState
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.jobs.usage import Charging, unpriced
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.jobs.writers import Observe
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.tenants.principal import TenantId


class JobService:
    """Provides the jobs of each tenant, and owns what they share.

    ``start`` does not need the database; every other call raises DatabaseUnavailable while it is unavailable.
    ``observe_batch`` is called with the kind ("create", "complete", "fail", "heartbeat") and size of each group commit.
    ``charging`` returns the cost of calls that workers report; ``results`` has copies of completed jobs,
    ``recent_rows`` the newest rows of events.
    """

    def __init__(
        self,
        database: Database,
        limits: JobLimits | None = None,
        *,
        observe_batch: Observe | None = None,
        charging: Charging = unpriced,
        callbacks: CallbackTargets | None = None,
        results: Results | None = None,
        recent_rows: RecentRows | None = None,
    ) -> None:
        self.limits = limits or JobLimits()
        self.wakeups = Wakeups(database)
        self.cancellations = asyncio.Event()  # set when a running job is cancelled; the reader clears it
        self.callbacks = callbacks
        claims = ClaimQueue()
        self._shared = Shared(
            database=database,
            limits=self.limits,
            wakeups=self.wakeups,
            claims=claims,
            polls=ReadyPolls(database, claims),
            places=Places(database, self.wakeups, claims),
            observe_batch=observe_batch,
            admissions=Admissions(database, self.wakeups, claims),
            charging=charging,
            results=results,
            recent_rows=recent_rows,
            callbacks=callbacks,
        )
        self._tenants: dict[TenantId, TenantJobs] = {}
        self._claiming = Claiming(self._shared, None, hand_back=self.hand_back)
        self.key_rules = KeyRules(database, self.wakeups)
        self.controls = Controls(self._shared, lambda tenant: self.of(tenant).stats())
        self.wakeups.subscribe(READY, self._shared.claims.wake)
        self.wakeups.subscribe(FINISHED, self._shared.finish_waiters.wake)
        self.wakeups.subscribe(CANCELLED, lambda _: self.cancellations.set())
        self.wakeups.subscribe(EVENTS, self._wake_readers)

    @property
    def claims(self) -> ClaimQueue:
        """The claims that wait for jobs."""
        return self._shared.claims

    def poll_every(self, interval: timedelta) -> None:
        """Poll for ready jobs this often while claims wait."""
        self._shared.polls.interval = interval

    @property
    def admissions(self) -> Admissions:
        """The admissions of blocked jobs to places of their concurrency keys."""
        return self._shared.admissions

    def of(self, tenant: TenantId) -> TenantJobs:
        """Return the jobs of a tenant."""
        jobs = self._tenants.get(tenant)
        if jobs is None:
            jobs = self._tenants[tenant] = TenantJobs(self._shared, tenant)
        return jobs

    async def queues_of_all(self) -> list[QueueState]:
        """Return the counters of the queues of all tenants."""
        async with self._shared.database.acquire() as connection:
            return await statistics.of_all_tenants(connection)

    def named(self, tenant: str) -> TenantJobs:
        """Return the jobs of a tenant of which this process has claimed jobs; raises KeyError for any other."""
        return self.of(self._shared.names.tenant(tenant))

    async def claim(self, request: ClaimRequest, slots: Slots | None = None) -> list[ClaimedJob]:
        """Lease ready jobs of all tenants, which take turns; see Claiming."""
        return await self._claiming.claim(request, slots)

    def hand_back(self, jobs: Sequence[ClaimedJob]) -> None:
        """Return jobs of any tenants to ready whose worker left before it received them."""
        for job in jobs:
            self.named(job.tenant).hand_back([job])

    async def start(self) -> None:
        """Start listening for wake-ups."""
        self.wakeups.start()

    async def stop(self) -> None:
        """Hand back jobs claimed for callers that have gone, write what is queued, end streams and stop listening."""
        await self._shared.polls.stop()
        await asyncio.gather(*self._shared.claiming, return_exceptions=True)
        await self._claiming.stop()
        for jobs in self._tenants.values():
            await jobs.stop()
        await self._shared.admissions.drain()
        await self._shared.places.stop()
        await self.wakeups.stop()

    def _wake_readers(self, _keys: Keys) -> None:
        for jobs in self._tenants.values():
            jobs.wake_readers()
