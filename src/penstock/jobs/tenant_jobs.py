"""The use cases of one tenant's jobs: submit, read, watch, claim, report, retry, cancel."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Sequence
from uuid import UUID

from penstock import batching
from penstock.errors import CallerError
from penstock.events.position import Position
from penstock.events.stream import OpenStream
from penstock.events.tail import EventTail
from penstock.failures import Category
from penstock.jobs.changing import Changing
from penstock.jobs.claiming import Claiming
from penstock.jobs.events import JobEvents
from penstock.jobs.job import Job, JobSubmission, Submitted
from penstock.jobs.names import Names
from penstock.jobs.queues import ServedQueues
from penstock.jobs.shared import Shared
from penstock.jobs.slots import Slots
from penstock.jobs.submissions import Submissions
from penstock.jobs.why import Explainer
from penstock.jobs.work import ClaimedJob, ClaimRequest, Failure, HeartbeatResult, JobCompletion, JobHeartbeat, JobState
from penstock.jobs.writers import TenantWriters
from penstock.tenants.principal import TenantId


class TenantJobs(Changing):
    """Every operation on the jobs of one tenant; each call may raise DatabaseUnavailable."""

    def __init__(self, shared: Shared, tenant: TenantId) -> None:
        self.tenant = tenant
        self._shared = shared
        self._names = Names(shared.database, tenant)
        self._writers = TenantWriters(
            shared.database,
            tenant,
            policy=shared.limits.retry,
            wakeups=shared.wakeups,
            places=shared.places,
            observe=shared.observe_batch,
            charging=shared.charging,
            admissions=shared.admissions,
        )
        self._submissions = Submissions(
            shared.database,
            tenant,
            self._names,
            self._writers,
            max_attempts=shared.limits.max_attempts,
            callbacks=shared.callbacks,
        )
        self._events = JobEvents(shared.database, tenant, self._names, shared.recent_rows)
        self.queues = ServedQueues(shared.database, tenant)
        self.explainer = Explainer(shared.database, tenant, self.queues)
        self._claiming = Claiming(shared, tenant, hand_back=self.hand_back)

    async def stop(self) -> None:
        """Write what is queued, then end streams."""
        await self._claiming.stop()
        await self._writers.drain()
        await self._events.tail.stop()

    # Submitting

    async def submit(self, submission: JobSubmission, *, key_id: str = "", counted: bool = False) -> Submitted:
        """Create a job, or return the one that an earlier request with the same idempotency key and content created.

        ``key_id`` is the id of the submitter's key; ``counted``: whether a quota counts the pending jobs of the key or
        user. Raises IdempotencyConflict when the idempotency key was used for
        another request.
        """
        return await self._submissions.submit(submission, key_id=key_id, counted=counted)

    async def submitted_before(self, submission: JobSubmission) -> Job | None:
        """Return the job that an earlier request with the same idempotency key and content created, if there is one.

        Raises IdempotencyConflict when the key was used for another request.
        """
        return await self._submissions.submitted_before(submission)

    async def submit_many(
        self, submissions: Sequence[JobSubmission], *, key_id: str = "", counted: bool = False
    ) -> builtins.list[Submitted]:
        """Create many jobs in one transaction, all or nothing; returns them in order. Raises as ``submit`` does."""
        return await self._submissions.submit_many(submissions, key_id=key_id, counted=counted)

    # Watching

    async def events(self, *, job_id: UUID | None = None, after: Position | None = None) -> OpenStream:
        """Open a stream of one job's events, or of all; see JobEvents. Raises DatabaseUnavailable."""
        return await (self._events.all(after) if job_id is None else self._events.of_job(job_id, after))

    async def events_over(self, job_id: UUID, after: Position) -> bool:
        """Return whether the job has finished and has no event after ``after``; raises NotFound."""
        return await self._events.is_over(job_id, after)

    @property
    def tail(self) -> EventTail:
        """The tail that passes new events of the tenant to open streams."""
        return self._events.tail

    def wake_readers(self) -> None:
        """Make open streams read the events that were stored."""
        self._events.tail.wake()

    # Claiming

    async def claim(self, request: ClaimRequest, slots: Slots | None = None) -> builtins.list[ClaimedJob]:
        """Lease ready jobs of this tenant; see Claiming."""
        return await self._claiming.claim(request, slots)

    def hand_back(self, jobs: Sequence[ClaimedJob]) -> None:
        """Return jobs to ready whose worker left before it received them. This costs them no attempt."""
        for job in jobs:
            report = Failure(
                epoch=job.epoch, category=Category.SHUTDOWN, message="the worker left before it received the job"
            )
            future = self._writers.failures.put((job.id, report))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    # Reporting

    async def heartbeat(self, beats: Sequence[JobHeartbeat]) -> builtins.list[HeartbeatResult | CallerError]:
        """Extend leases; returns results in order, StaleEpoch or NotFound as values."""
        return batching.values(await self._writers.heartbeats.put_all(beats), CallerError)

    def complete(self, completion: JobCompletion) -> Awaitable[JobState]:
        """Store a result. Repeating it with the same epoch succeeds; raises StaleEpoch, NotFound."""
        return self._shared.places.end(self.tenant, self._writers.completions.put(completion))

    async def complete_many(self, completions: Sequence[JobCompletion]) -> builtins.list[JobState | CallerError]:
        """Store many results; returns outcomes in order, errors as values. Each is accepted or refused on its own."""
        ending = self._shared.places.end(self.tenant, self._writers.completions.put_all(completions))
        return batching.values(await ending, CallerError)

    async def fail(self, job_id: UUID, failure: Failure) -> JobState:
        """End an attempt without a result; the job returns to pending or finishes. Raises StaleEpoch, NotFound."""
        return await self._shared.places.end(self.tenant, self._writers.failures.put((job_id, failure)))
