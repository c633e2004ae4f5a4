"""The engine of every worker: it claims jobs, runs them and reports on them, whatever their source.

It does not need a database: ``Worker`` feeds it from PostgreSQL, ``penstock.Client.work`` over HTTP.

The run of one job is an ``Attempt``. ``Runners`` execute attempts, ``Heartbeats`` extends all their leases with one
call, and ``Reports`` sends their outcomes. The next claim is in flight while jobs run. Output that is unsent when an
executor ends is sent before its report. While the service is unavailable, reports wait until it is back: the lease is
kept alive until then, and the service refuses a stale epoch, so nothing is done twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from penstock.errors import CallerError
from penstock.failures import Category
from penstock.jobs.slots import Slots
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.processes.waiting import set_within
from penstock.tenants.principal import DEFAULT_TENANT, TenantId, logged
from penstock.work.attempt import Attempt
from penstock.work.executor import Executor
from penstock.work.heartbeats import Heartbeats
from penstock.work.link import Link
from penstock.work.reports import Observe, Reports
from penstock.work.runners import Runners
from penstock.work.source import Duty, JobSource, Log

TenantOf = Callable[[str], TenantId]

_LARGEST_CLAIM: Final = 1000  # jobs in one claim
_LONGEST_WAIT: Final = 60.0  # seconds that one claim waits for jobs
_GATHER: Final = 0.003  # seconds to wait for more free slots, so that claims come in batches
_HAND_BACK: Final = 5.0  # seconds for interrupted executors to end, and for their reports
_LAST_REPORTS: Final = 2.0  # seconds for the reports of executors that did not end


class Engine:
    """Runs the jobs of one duty with one executor until it is stopped.

    ``slots`` belong to the worker: the source takes one for each job that it returns, and the engine frees it when the
    executor has ended. ``observe`` is called with each attempt's outcome ("completed", "lost", or the error category)
    and its seconds. ``tenant_of`` returns the id of a job's tenant by its name; workers without a database need none.
    When a claim raises a CallerError (a wrong token, a wrong name), ``run`` hands all jobs back and raises it.
    """

    def __init__(
        self,
        source: JobSource,
        executor: Executor,
        duty: Duty,
        *,
        log: Log,
        observe: Observe | None = None,
        slots: Slots | None = None,
        tenant_of: TenantOf = lambda _: DEFAULT_TENANT,
    ) -> None:
        self.duty = duty
        self._slots = slots
        self._tenant_of = tenant_of
        self._link = Link(log)
        self.connected = self._link.connected  # set while the last call to the source succeeded
        self.draining = False
        self.claimed = 0
        self.turned_at: float | None = None  # monotonic time of the claim loop's last iteration
        self._source = source
        self._log = log
        self._attempts: dict[
            int, Attempt
        ] = {}  # by epoch, because a job is here twice if it was claimed again after losing its lease
        self._room = asyncio.Event()
        self._withdrawing = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._started = False
        self._executing = 0  # attempts whose executor has not ended; for the others only the report is not stored
        self._heartbeats = Heartbeats(source, duty, self._link, log, self._attempts)
        self._runners = Runners(executor, self._executed)
        self._reports = Reports(source, self._link, self._heartbeats, log, ended=self._ended, observe=observe)

    # Life

    async def run(self) -> None:
        """Work until ``stop``, or after ``withdraw`` until all jobs have ended; if cancelled, hand them back now."""
        self._started = True
        self._room.set()
        loops = [asyncio.create_task(self._claim()), asyncio.create_task(self._heartbeats.run())]
        stopping = asyncio.create_task(self._stopping.wait())
        finishing = asyncio.create_task(self._finish(loops[0]))
        grace = timedelta(0)
        try:
            await asyncio.wait([*loops, stopping, finishing], return_when=asyncio.FIRST_COMPLETED)
            if self._withdrawing.is_set():  # which ended the claim loop
                await asyncio.wait([loops[1], stopping, finishing], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                grace = self.duty.grace
        finally:
            self.draining = True
            stopping.cancel()
            finishing.cancel()
            try:
                await _cancelled(loops[0])
                await self._drain(grace.total_seconds())
            finally:
                await _cancelled(loops[1])
                self._stopped.set()
        for loop in loops:
            if not loop.cancelled():
                loop.result()

    async def stop(self) -> None:
        """Claim no more jobs, let running ones finish within the grace period, hand back the rest; wait until done."""
        self._stopping.set()
        if self._started:
            await self._stopped.wait()

    def withdraw(self) -> None:
        """Claim no more jobs; ``run`` ends once all running jobs have ended, however long they take."""
        self.draining = True
        self._withdrawing.set()

    @property
    def withdrawn(self) -> bool:
        return self._withdrawing.is_set()

    def check_leases(self) -> None:
        """Request an early heartbeat for all jobs: one may have been cancelled."""
        self._heartbeats.all_soon()

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of ended attempts, by outcome."""
        return self._reports.outcomes

    @property
    def running(self) -> list[ClaimedJob]:
        """The jobs that are held now, in the order of their claims."""
        return [attempt.job for attempt in self._attempts.values()]

    async def _finish(self, claiming: asyncio.Task[None]) -> None:
        await self._withdrawing.wait()
        await _cancelled(claiming)
        while self._attempts:
            self._room.clear()
            await self._room.wait()

    async def _drain(self, grace: float) -> None:
        await self._empty_within(grace)
        for attempt in self._attempts.values():
            attempt.interrupt(Category.SHUTDOWN)
        await self._empty_within(_HAND_BACK)
        left = list(self._attempts.values())  # executors that do not stop, or reports that cannot be sent
        self._attempts.clear()
        self._runners.clear()
        for attempt in left:
            job = attempt.job
            self._log.warning("attempt_abandoned", job_id=str(job.id), epoch=job.epoch, **logged(job.tenant))
            if attempt.task is not None:
                attempt.task.cancel()
        await self._reports.cancel()
        for attempt in left:
            if attempt.report is None or attempt.has_output:  # without all of its output no job is complete
                attempt.report = attempt.interrupted()
        try:
            async with asyncio.timeout(_LAST_REPORTS):
                await self._reports.hand_in(left)
        except TimeoutError:
            self._log.warning("handing_back_failed", jobs=len(left))  # their leases expire

    async def _empty_within(self, seconds: float) -> None:
        """Wait until nothing is held, for ``seconds`` at most."""
        deadline = time.monotonic() + seconds
        while self._attempts and (left := deadline - time.monotonic()) > 0:
            self._room.clear()
            await set_within(self._room, left)

    # Claiming

    async def _claim(self) -> None:
        pause = 0.0
        while True:
            limit = await self._free()
            self.turned_at = time.monotonic()
            try:
                jobs = await self._source.claim(self._request(limit))
            except CallerError:
                raise
            except Exception as error:  # noqa: BLE001 - the service is unavailable, or the error is unforeseen
                pause = await self._link.back_off(pause, "claim_failed", error)
                continue
            pause = 0.0
            self.connected.set()
            self._begin(jobs)

    async def _free(self) -> int:
        """Wait for free slots, and a moment longer if there are few; return how many jobs to claim."""
        while True:
            free = self._capacity()
            if free * 2 >= self.duty.limit:
                return free
            if free > 0:
                await asyncio.sleep(_GATHER)
                return self._capacity()
            self._room.clear()
            await self._room.wait()

    def _capacity(self) -> int:
        """Return how many jobs may be claimed now. Reports that are being sent do not count, unless they pile up."""
        if len(self._attempts) >= 2 * self.duty.limit:
            return 0
        return self.duty.limit - self._executing

    def _request(self, limit: int) -> ClaimRequest:
        duty = self.duty
        # The first call after an outage does not wait: its response shows that the service is back.
        wait = min(duty.poll.total_seconds(), _LONGEST_WAIT) if self.connected.is_set() else 0
        return ClaimRequest(
            worker_id=duty.worker_id,
            task_types=list(duty.task_types),
            model_profiles=list(duty.model_profiles),
            tenants=list(duty.tenants),
            limit=min(limit, _LARGEST_CLAIM),
            lease_seconds=duty.lease.total_seconds(),
            wait_seconds=wait,
        )

    def _begin(self, jobs: Sequence[ClaimedJob]) -> None:
        now = time.monotonic()
        self.claimed += len(jobs)
        tenants = {name: self._tenant_of(name) for name in {job.tenant for job in jobs}}
        attempts = [Attempt(job, self.duty, now, self._heartbeats.soon, tenant=tenants[job.tenant]) for job in jobs]
        self._attempts.update((attempt.job.epoch, attempt) for attempt in attempts)
        self._executing += len(attempts)
        self._runners.begin(attempts)

    def _executed(self, attempt: Attempt) -> None:
        """Handle the end of an executor: another may begin while the report is being sent."""
        self._executing -= 1
        if self._slots is not None:
            self._slots.give_back(1)
        self._room.set()
        if attempt.job.epoch in self._attempts:  # not abandoned
            self._reports.put(attempt)

    def _ended(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.job.epoch, None)
        self._room.set()


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; the task keeps its outcome."""
    task.cancel()
    await asyncio.wait([task])
