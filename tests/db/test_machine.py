"""Random histories of jobs against a small model: whatever the order of calls, the invariants hold."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock.errors import CallerError, IdempotencyConflict
from penstock.failures import Category
from penstock.jobs.filters import JobFilter
from penstock.jobs.limits import JobLimits
from penstock.jobs.service import JobService
from penstock.jobs.sql import duties
from penstock.jobs.states import Again, RetryPolicy, Status, Tally, after_failure
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant, query
from tests.support.duties import promote, rescue
from tests.support.jobs import JobCaller

Result = TypeVar("Result")
POLICY = RetryPolicy(base=timedelta(seconds=10), cap=timedelta(minutes=1), max_lost_leases=3)
LIMITS = JobLimits(max_attempts=3, lease=timedelta(seconds=60), retry=POLICY, cancel_grace=timedelta(seconds=20))
PICK = st.integers(0, 10**6)


@dataclass
class Model:
    """The state that a job should have by the rules alone."""

    status: Status
    max_attempts: int
    due: float | None = None  # when a scheduled or backing-off job becomes ready, in seconds of the test's clock
    failures: int = 0
    losses: int = 0
    cancelling_since: float | None = None
    lease_until: float = 0.0
    claimed: ClaimedJob | None = None
    stale: list[ClaimedJob] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # event types that must be stored
    attempts: int = 0  # those that failed or were lost


class JobMachine(RuleBasedStateMachine):
    """Drives the service; the loop, the database and the clock come from the test."""

    loop: asyncio.AbstractEventLoop
    database: Database
    service: JobService

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[UUID, Model] = {}
        self.keys: dict[str, tuple[UUID, int]] = {}
        self.now = 0.0
        self.highest_epoch = 0
        self.numbers = itertools.count()

    def do(self, work: Awaitable[Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(_awaited(work), self.loop).result(100)

    @initialize()
    def begin(self) -> None:
        self.caller = JobCaller(self.service, self.do(own_tenant(self.database)))
        self.clock = Clock(self.database)
        self.do(self.clock.freeze())  # so that the time of the model equals that of the database

    def pick(self, number: int, *statuses: Status) -> tuple[UUID, Model] | None:
        found = [(job_id, job) for job_id, job in self.jobs.items() if job.status in statuses]
        return found[number % len(found)] if found else None

    # What callers do

    @rule(priority=st.integers(-100, 100), attempts=st.sampled_from([1, 2, 2, 3]), delay=st.sampled_from([0, 0, 0, 30]))
    def submit(self, priority: int, attempts: int, delay: int) -> None:
        fields: dict[str, Any] = {"priority": priority, "max_attempts": attempts}
        if delay:
            (moment,) = self.do(query(self.database, "SELECT clock()"))[0]
            fields["run_at"] = moment + timedelta(seconds=delay)
        job = self.do(self.caller.submit(**fields))
        due = self.now + delay if delay else None
        self.jobs[job.id] = Model(Status.PENDING, attempts, due=due, counts=Counter({"job.created": 1}))

    @rule(key=st.sampled_from("abc"), priority=st.integers(0, 1))
    def submit_with_key(self, key: str, priority: int) -> None:
        known = self.keys.get(key)
        if known is not None and known[1] != priority:
            with pytest.raises(IdempotencyConflict):
                self.do(self.caller.submit(idempotency_key=key, priority=priority))
            return
        job = self.do(self.caller.submit(idempotency_key=key, priority=priority))
        if known is None:
            self.keys[key] = (job.id, priority)
            self.jobs[job.id] = Model(Status.PENDING, LIMITS.max_attempts, counts=Counter({"job.created": 1}))
        assert job.id == self.keys[key][0]

    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        picked = self.pick(number, Status.PENDING, Status.RUNNING)
        if picked is None:
            return
        job_id, job = picked
        self.do(self.caller.cancel(job_id))
        if job.status is Status.PENDING:
            job.status, job.due = Status.CANCELLED, None
            job.counts["job.cancelled"] += 1
        elif job.cancelling_since is None:
            job.cancelling_since = self.now
            job.counts["job.cancel_requested"] += 1

    @rule(number=PICK)
    def retry(self, number: int) -> None:
        picked = self.pick(number, Status.FAILED, Status.RUNNING)
        if picked is None:
            return
        job_id, job = picked
        self.do(self.caller.retry(job_id))
        if job.status is Status.RUNNING:
            self.lose(job)
        job.status, job.due, job.failures, job.losses = Status.PENDING, None, 0, 0
        job.counts["job.retried"] += 1

    @rule(number=PICK)
    def a_finished_job_cannot_be_changed(self, number: int) -> None:
        picked = self.pick(number, Status.COMPLETED, Status.CANCELLED)
        if picked is None:
            return
        job_id, job = picked
        for change in (self.caller.retry, self.caller.cancel):
            if job.status is Status.CANCELLED and change == self.caller.cancel:
                continue  # cancelling twice is fine
            with pytest.raises(CallerError):
                self.do(change(job_id))

    # What workers do

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        ready = [job for job in self.jobs.values() if job.status is Status.PENDING and job.due is None]
        claimed = self.do(self.caller.claim(limit))
        assert len(claimed) == min(limit, len(ready))
        for one in claimed:
            job = self.jobs[one.id]
            assert (job.status, job.due) == (Status.PENDING, None)
            assert one.epoch > self.highest_epoch
            self.highest_epoch = one.epoch
            job.status, job.claimed, job.lease_until = Status.RUNNING, one, self.now + 60
            job.cancelling_since = None
            job.counts["job.started"] += 1

    @rule(number=PICK)
    def heartbeat(self, number: int) -> None:
        picked = self.pick(number, Status.RUNNING)
        if picked is None or picked[1].claimed is None:
            return
        result = self.do(self.caller.beat(picked[1].claimed))
        assert not isinstance(result, CallerError)
        assert result.cancel_requested == (picked[1].cancelling_since is not None)
        picked[1].lease_until = self.now + 60

    @rule(number=PICK)
    def complete(self, number: int) -> None:
        picked = self.pick(number, Status.RUNNING)
        if picked is None or picked[1].claimed is None:
            return
        job = picked[1]
        self.do(self.caller.complete(picked[1].claimed))
        self.do(self.caller.complete(picked[1].claimed))  # once more, as after a lost response
        job.status, job.claimed = Status.COMPLETED, None
        job.counts["job.completed"] += 1

    @rule(number=PICK, category=st.sampled_from([*Category, *[Category.TIMEOUT] * 6]))
    def fail(self, number: int, category: Category) -> None:
        picked = self.pick(number, Status.RUNNING)
        if picked is None or picked[1].claimed is None:
            return
        job = picked[1]
        state = self.do(self.caller.fail(picked[1].claimed, category, retry_after=45))
        self.end(job, category, retry_after=45.0)
        assert state.status is job.status
        assert (state.run_at is not None) == (job.due is not None)

    @rule(number=PICK)
    def report_with_a_stale_epoch(self, number: int) -> None:
        found = [(job, claim) for job in self.jobs.values() for claim in job.stale]
        if not found:
            return
        _, claim = found[number % len(found)]
        for report in (self.caller.complete(claim), self.caller.fail(claim)):
            with pytest.raises(CallerError):
                self.do(report)
        assert isinstance(self.do(self.caller.beat(claim)), CallerError)

    # What time and the housekeeper do

    @rule(seconds=st.sampled_from([5, 25, 70]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.do(self.clock.advance(timedelta(seconds=seconds)))

    @rule()
    def pass_time_and_run_duties(self) -> None:
        self.pass_time(55)
        self.run_duties()

    @rule()
    def run_duties(self) -> None:
        self.do(promote(self.database))
        self.do(rescue(self.database, LIMITS))
        for job in self.jobs.values():
            if job.status is Status.PENDING and job.due is not None and job.due <= self.now:
                job.due = None
            if job.status is Status.RUNNING:
                expired = job.lease_until < self.now
                overdue = job.cancelling_since is not None and job.cancelling_since + 20 < self.now
                if expired or overdue:
                    self.end(job, Category.WORKER_LOST)

    @precondition(lambda self: bool(self.jobs))
    @rule()
    def roll_up(self) -> None:
        self.do(_roll_up(self.database))

    @precondition(lambda self: bool(self.jobs))
    @rule()
    def raise_hints(self) -> None:
        self.do(_raise_hints(self.database))

    # The model

    def lose(self, job: Model) -> None:
        assert job.claimed is not None
        job.stale.append(job.claimed)
        job.claimed, job.cancelling_since = None, None
        job.attempts += 1

    def end(self, job: Model, category: Category, retry_after: float | None = None) -> None:
        """End an attempt without a result by the rules, which have tests of their own."""
        tally = Tally(
            attempt=job.attempts + 1,
            failures=job.failures,
            losses=job.losses,
            max_attempts=job.max_attempts,
            cancel_requested=job.cancelling_since is not None,
        )
        floor = None if retry_after is None else timedelta(seconds=retry_after)
        outcome = after_failure(category, tally, POLICY, jitter=0.0, retry_after=floor)
        self.lose(job)
        if isinstance(outcome, Again):
            job.status, job.failures, job.losses = Status.PENDING, outcome.failures, outcome.losses
            job.due = self.now + outcome.delay.total_seconds() if outcome.delay else None
            job.counts["job.retrying"] += 1
        else:
            job.status = outcome.status
            job.counts[f"job.{outcome.status}"] += 1

    # What always holds

    @invariant()
    def each_job_is_in_one_table_with_the_status_of_the_model(self) -> None:
        if not self.jobs:
            return
        rows = self.do(
            query(
                self.database,
                "SELECT job_id, 'pending' FROM ready WHERE tenant_id = $1 UNION ALL SELECT job_id, 'pending' FROM later"
                " WHERE tenant_id = $1 UNION ALL SELECT job_id, 'running' FROM lease WHERE tenant_id = $1"
                " UNION ALL SELECT job_id, status FROM done WHERE tenant_id = $1",
                self.caller.tenant,
            )
        )
        assert sorted((str(job_id), status) for job_id, status in rows) == sorted(
            (str(job_id), job.status.value) for job_id, job in self.jobs.items()
        )

    @invariant()
    def counters_equal_rows(self) -> None:
        if not self.jobs:
            return
        totals = self.do(self.service.of(self.caller.tenant).stats()).totals
        expected = Counter(job.status for job in self.jobs.values())
        for status in (Status.PENDING, Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED):
            assert getattr(totals, status) == expected[status], status
        assert sum(totals.errors.values()) == sum(job.attempts for job in self.jobs.values())

    def teardown(self) -> None:
        """Assert that every transition has its event, and that the list agrees with the model."""
        if not self.jobs:
            return
        rows = self.do(
            query(
                self.database,
                "SELECT counts.id, kind, count(*) FROM event, unnest(coalesce(job_ids, ARRAY[job_id])) AS counts(id)"
                " WHERE tenant_id = $1 AND kind <> 'job.progress' GROUP BY 1, 2",
                self.caller.tenant,
            )
        )
        counts = {(job_id, kind): count for job_id, kind, count in rows}
        assert counts == {(job_id, kind): n for job_id, job in self.jobs.items() for kind, n in job.counts.items() if n}
        page = self.do(self.service.of(self.caller.tenant).list(JobFilter(), limit=500))
        assert {job.id: job.status for job in page.jobs} == {job_id: job.status for job_id, job in self.jobs.items()}
        # The next history begins at the same time, with nothing left to rescue or promote.
        self.do(_forget(self.database, self.caller))
        self.do(self.clock.reset())


async def _awaited(work: Awaitable[Result]) -> Result:
    return await work


async def _roll_up(database: Database) -> None:
    async with database.acquire() as connection:
        await duties.roll_up(connection)


async def _raise_hints(database: Database) -> None:
    async with database.acquire() as connection:
        await duties.raise_hints(connection)


async def _forget(database: Database, caller: JobCaller) -> None:
    for place in ("ready", "later", "lease"):
        await execute(database, f"DELETE FROM {place} WHERE tenant_id = $1", caller.tenant)


@pytest.mark.timeout(600)
async def test_random_histories_keep_every_invariant(fresh: Database, alone: JobCaller) -> None:
    """Hypothesis drives the machine from a thread; the service runs on this loop."""
    service = JobService(fresh, LIMITS)
    await service.start()
    JobMachine.loop, JobMachine.database, JobMachine.service = asyncio.get_running_loop(), fresh, service
    profile = settings(
        max_examples=250,
        stateful_step_count=50,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    try:
        await asyncio.to_thread(run_state_machine_as_test, JobMachine, settings=profile)
    finally:
        await service.stop()
