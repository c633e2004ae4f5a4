"""The engine of every worker: claims, runs and reports, wherever the jobs come from.

Needs no database itself: ``Worker`` drives it from PostgreSQL, ``penstock.Client.work`` over HTTP.

Each job is one task (``Attempt``). The next claim is in flight while jobs run; one heartbeat call speaks for all of
them (``Heartbeats``). What executors told and is left when they end is sent before the end is reported. While the
service is away, reports wait until it is back: the lease is kept alive until then, and a stale epoch is refused by the
service, so nothing is done twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from penstock.errors import CallerError, NotFound, ServiceError, StaleEpoch
from penstock.jobs.job import ClaimedJob, ClaimRequest, Failure, JobCompletion
from penstock.jobs.states import ErrorCategory
from penstock.work.attempt import Attempt
from penstock.work.executor import Executor
from penstock.work.heartbeats import Heartbeats
from penstock.work.link import Link
from penstock.work.source import Duty, JobSource, Log

_LARGEST_CLAIM: Final = 1000  # jobs in one request
_LONGEST_WAIT: Final = 60.0  # seconds of one long-poll
_GATHER: Final = 0.003  # seconds to wait for more room, so that claims come in batches
_HAND_BACK: Final = 5.0  # seconds for interrupted executors to end, and for their reports
_LAST_REPORTS: Final = 2.0  # seconds for the reports of those that did not
_SURPRISES: Final = 5  # unforeseen errors of a report after which it counts as refused


class Engine:
    """Runs the jobs of one duty with one executor until it is stopped.

    ``observe`` is told each attempt's outcome ("completed", "lost", or the error category) and its seconds.
    ``run`` raises a CallerError that claiming meets (a wrong token, a wrong name), after handing everything back.
    """

    def __init__(
        self,
        source: JobSource,
        executor: Executor,
        duty: Duty,
        *,
        log: Log,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self.duty = duty
        self._link = Link(log)
        self.connected = self._link.connected  # set while the last call to the source succeeded
        self.draining = False
        self.claimed = 0
        self.outcomes: dict[str, int] = {}
        self.turned_at: float | None = None  # monotonic time of the claim loop's last turn
        self._source = source
        self._executor = executor
        self._log = log
        self._observe = observe
        self._attempts: dict[int, Attempt] = {}  # by epoch: a job may be here twice if its lease was taken away
        self._room = asyncio.Event()
        self._withdrawing = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._started = False
        self._heartbeats = Heartbeats(source, duty, self._link, log, self._attempts)

    # Life

    async def run(self) -> None:
        """Work until ``stop``, or ``withdraw`` and the end of what runs; when cancelled, hand that back at once."""
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
        """Take no more jobs, let running ones finish within the grace, hand back the rest; waits until done."""
        self._stopping.set()
        if self._started:
            await self._stopped.wait()

    def withdraw(self) -> None:
        """Take no more jobs; ``run`` ends when those that run have, however long they take."""
        self.draining = True
        self._withdrawing.set()

    @property
    def withdrawn(self) -> bool:
        return self._withdrawing.is_set()

    def look_at_leases(self) -> None:
        """Heartbeat all jobs soon: some job was asked to stop."""
        self._heartbeats.all_soon()

    @property
    def running(self) -> list[ClaimedJob]:
        """The jobs that are held now, oldest claim first."""
        return [attempt.job for attempt in self._attempts.values()]

    async def _finish(self, claiming: asyncio.Task[None]) -> None:
        await self._withdrawing.wait()
        await _cancelled(claiming)
        while self._attempts:
            self._room.clear()
            await self._room.wait()

    async def _drain(self, grace: float) -> None:
        await self._ended(grace)
        for attempt in self._attempts.values():
            attempt.interrupt(ErrorCategory.SHUTDOWN)
        await self._ended(_HAND_BACK)
        left = list(self._attempts.values())  # executors that do not stop, or reports that do not get through
        for attempt in left:
            self._log.warning("attempt_abandoned", job_id=str(attempt.job.id), epoch=attempt.job.epoch)
            if attempt.task is not None:
                attempt.task.cancel()
            if attempt.report is None or attempt.outbox.waiting:  # without all of its output no job is complete
                attempt.report = attempt.interrupted()
        try:
            async with asyncio.timeout(_LAST_REPORTS):
                await asyncio.gather(*(self._report(attempt) for attempt in left))
        except TimeoutError:
            self._log.warning("handing_back_failed", jobs=len(left))  # their leases expire
        self._attempts.clear()

    async def _ended(self, seconds: float) -> None:
        tasks = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)

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
            except Exception as error:  # noqa: BLE001 - the service is away, or something that nobody foresaw
                pause = await self._link.back_off(pause, "claim_failed", error)
                continue
            pause = 0.0
            self.connected.set()
            self._begin(jobs)

    async def _free(self) -> int:
        """Wait until there is room for jobs, for a moment longer if it is little; answers how much."""
        while True:
            free = self.duty.limit - len(self._attempts)
            if free * 2 >= self.duty.limit:
                return free
            if free > 0:
                await asyncio.sleep(_GATHER)
                return self.duty.limit - len(self._attempts)
            self._room.clear()
            await self._room.wait()

    def _request(self, limit: int) -> ClaimRequest:
        duty = self.duty
        # The first call after a silence does not wait: its answer tells that the service is there.
        wait = min(duty.poll.total_seconds(), _LONGEST_WAIT) if self.connected.is_set() else 0
        return ClaimRequest(
            worker_id=duty.worker_id,
            task_types=list(duty.task_types),
            model_profiles=list(duty.model_profiles),
            limit=min(limit, _LARGEST_CLAIM),
            lease_seconds=duty.lease.total_seconds(),
            wait_seconds=wait,
        )

    def _begin(self, jobs: Sequence[ClaimedJob]) -> None:
        now = time.monotonic()
        self.claimed += len(jobs)
        for job in jobs:
            attempt = Attempt(job, self.duty, now, self._heartbeats.soon)
            self._attempts[job.epoch] = attempt
            attempt.task = asyncio.create_task(self._attend(attempt))

    async def _attend(self, attempt: Attempt) -> None:
        """One job from its claim to its report."""
        try:
            await attempt.execute(self._executor)
            if attempt.report is not None:
                await self._heartbeats.tell_rest(attempt)
            if attempt.lost:
                attempt.report = None
            await self._report(attempt)
        except asyncio.CancelledError:
            raise  # the end of all: what this attempt has, or holds, is handed in by ``_drain``
        except BaseException:
            self._forget(attempt)
            raise
        self._forget(attempt)

    def _forget(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.job.epoch, None)
        self._room.set()

    # Reporting

    async def _report(self, attempt: Attempt) -> None:
        """Hand in an attempt's report, however long the service is away."""
        if attempt.report is None:
            self._tell(attempt, "lost")
            return
        pause, surprises = 0.0, 0
        while True:
            try:
                if isinstance(attempt.report, JobCompletion):
                    await self._source.complete(attempt.report)
                else:
                    await self._source.fail(attempt.job.id, attempt.report)
            except (StaleEpoch, NotFound):
                self._tell(attempt, "lost")
                return
            except ServiceError as error:
                pause = await self._link.back_off(pause, "report_failed", error)
            except Exception as error:  # noqa: BLE001 - a report that is refused must not end the worker
                surprises += 1
                if not isinstance(error, CallerError) and surprises <= _SURPRISES:
                    pause = await self._link.back_off(pause, "report_failed", error)
                elif attempt.simplify(error):
                    surprises = 0
                else:
                    self._log.exception("report_refused", job_id=str(attempt.job.id))
                    return
            else:
                self._tell(attempt, attempt.report)
                return

    def _tell(self, attempt: Attempt, outcome: JobCompletion | Failure | str) -> None:
        seconds = time.monotonic() - attempt.begun_at
        job = attempt.job
        if isinstance(outcome, JobCompletion):
            name = "completed"
            self._log.debug("attempt_completed", job_id=job.id, attempt=job.attempt, seconds=seconds)
        else:
            name = outcome.category.value if isinstance(outcome, Failure) else outcome
            message = outcome.message if isinstance(outcome, Failure) else "the lease is no longer held"
            self._log.info(
                "attempt_failed",
                job_id=str(job.id),
                attempt=job.attempt,
                category=name,
                message=message,
                seconds=round(seconds, 3),
            )
        self.outcomes[name] = self.outcomes.get(name, 0) + 1
        if self._observe is not None:
            self._observe(name, seconds)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; its outcome stays in it."""
    task.cancel()
    await asyncio.wait([task])
