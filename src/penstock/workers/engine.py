"""The engine of every worker: claims, runs, heartbeats and reports, wherever the jobs come from.

Needs no database itself: ``Worker`` drives it from PostgreSQL, ``penstock.Client.work`` over HTTP.

Each job is one task. The next claim is in flight while jobs run. One heartbeat call speaks for all jobs; its answer
brings cancellations and lost leases, and it carries what executors tell: progress, output, log. What of that is left
when an executor ends is sent before the end is reported. While the service is away, reports wait until it is back: the
lease is kept alive until then, and a stale epoch is refused by the service, so nothing is done twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import random
from typing import Any, Protocol
from uuid import UUID

from msgspec import Raw
from msgspec.structs import replace

from penstock.errors import CallerError, InvalidInput, MalformedBody, NotFound, ServiceError, StaleEpoch, TooLarge
from penstock.jobs.job import ClaimedJob, ClaimRequest, Failure, HeartbeatAnswer, JobCompletion, JobHeartbeat
from penstock.jobs.states import ErrorCategory
from penstock.workers.executors import ExecutionError, Executor, JobContext, encode, shortened
from penstock.workers.outbox import Outbox, Parcel

_LARGEST_CLAIM = 1000  # jobs in one request
_LONGEST_WAIT = 60.0  # seconds of one long-poll
_GATHER = 0.003  # seconds to wait for more room, so that claims come in batches
_BEAT_PAUSE = 0.25  # seconds between heartbeats at least, however often something asks for one
_HAND_BACK = 5.0  # seconds for interrupted executors to end, and for their reports
_SURPRISES = 5  # unforeseen errors of a report after which it counts as refused
_LONGEST_PAUSE = 2.0  # seconds between tries while the service is away
_REFUSED = (InvalidInput, MalformedBody, TooLarge)  # what the service says of content that it cannot store
_LARGEST_BEAT = 900 * 1024  # bytes of what executors told, in one heartbeat call for many jobs


Report = JobCompletion | Failure


class JobSource(Protocol):
    """Where jobs come from and results go. Raises ServiceError while it is away."""

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]: ...
    async def heartbeat(self, beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatAnswer | CallerError]: ...
    async def complete(self, completion: JobCompletion) -> object: ...
    async def fail(self, job_id: UUID, failure: Failure) -> object: ...


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def debug(self, event: str, **fields: Any) -> object: ...
    def info(self, event: str, **fields: Any) -> object: ...
    def warning(self, event: str, **fields: Any) -> object: ...
    def exception(self, event: str, **fields: Any) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What an engine claims and how it keeps what it claimed."""

    worker_id: str
    task_types: tuple[str, ...] = ()  # none: any
    model_profiles: tuple[str, ...] = ()  # none: any
    limit: int = 1  # jobs that run at a time
    lease: timedelta = timedelta(minutes=15)
    poll: timedelta = timedelta(seconds=2)  # look for jobs at least this often; news of jobs come sooner
    beat: timedelta = timedelta(seconds=5)  # longest time between heartbeats; a third of the lease if that is less
    grace: timedelta = timedelta(seconds=30)  # for running jobs to finish at a stop
    max_result_bytes: int | None = None


class _Attempt:
    """One run of one job by this process."""

    __slots__ = ("beat_at", "begun_at", "context", "interruptible", "job", "reason", "refusal", "task")

    def __init__(self, job: ClaimedJob, now: float, changed: Callable[[], None]) -> None:
        self.job = job
        self.context = JobContext(changed)
        self.refusal = ""  # why the service refused what the executor told
        self.begun_at = now
        self.beat_at = now  # when the lease was last known to be extended
        self.interruptible = False
        self.reason: ErrorCategory | None = None  # why it was interrupted; WORKER_LOST: it is no longer ours
        self.task: asyncio.Task[None] | None = None

    @property
    def outbox(self) -> Outbox:
        return self.context.outbox

    def interrupt(self, reason: ErrorCategory) -> None:
        """Stop the executor; a lost lease outweighs every other reason. Nothing happens once it has ended."""
        if self.reason is None or reason is ErrorCategory.WORKER_LOST:
            self.reason = reason
        if self.interruptible and self.task is not None:
            self.task.cancel()


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
        self.connected = asyncio.Event()  # set while the last call to the source succeeded
        self.draining = False
        self.claimed = 0
        self.outcomes: dict[str, int] = {}
        self.turned_at: float | None = None  # monotonic time of the claim loop's last turn
        self._source = source
        self._executor = executor
        self._log = log
        self._observe = observe
        self._attempts: dict[int, _Attempt] = {}  # by epoch: a job may be here twice if its lease was taken away
        self._room = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._beat_all = False
        self._withdrawing = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._started = False
        lease = duty.lease.total_seconds()
        self._beat_every = min(lease / 3, duty.beat.total_seconds())

    # Life

    async def run(self) -> None:
        """Work until ``stop``, or ``withdraw`` and the end of what runs; when cancelled, hand that back at once."""
        self._started = True
        self._room.set()
        loops = [asyncio.create_task(self._claim()), asyncio.create_task(self._beat())]
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
        if self._attempts:
            self._beat_all = True
            self._beat_now.set()

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
        stubborn = list(self._attempts.values())  # executors that do not stop, or reports that do not get through
        for attempt in stubborn:
            self._log.warning("attempt_abandoned", job_id=str(attempt.job.id), epoch=attempt.job.epoch)
            if attempt.task is not None:
                attempt.task.cancel()
        reports = [self._report(attempt, _with_usage(self._interrupted(attempt), attempt)) for attempt in stubborn]
        try:
            async with asyncio.timeout(_LONGEST_PAUSE):
                await asyncio.gather(*reports)
        except TimeoutError:
            self._log.warning("handing_back_failed", jobs=len(stubborn))  # their leases expire
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
            except ServiceError as error:
                pause = await self._back_off(pause, "claim_failed", error)
                continue
            except Exception as error:  # noqa: BLE001 - the loop outlives what nobody foresaw: a schema not yet there
                pause = await self._back_off(pause, "claim_failed", error)
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

    async def _back_off(self, pause: float, event: str, error: Exception) -> float:
        """Wait while the service is away, longer each time; answers the next pause."""
        if self.connected.is_set() or not pause:
            self.connected.clear()
            self._log.warning(event, error=_described(error))
        pause = min(max(pause * 2, 0.1), _LONGEST_PAUSE)
        await asyncio.sleep(pause * (0.5 + random() / 2))
        return pause

    def _begin(self, jobs: Sequence[ClaimedJob]) -> None:
        now = time.monotonic()
        self.claimed += len(jobs)
        for job in jobs:
            attempt = _Attempt(job, now, self._beat_now.set)
            self._attempts[job.epoch] = attempt
            attempt.task = asyncio.create_task(self._attend(attempt))

    # Running

    async def _attend(self, attempt: _Attempt) -> None:
        """One job from its claim to its report."""
        report = _with_usage(await self._execute(attempt), attempt)
        attempt.outbox.close()
        if report is not None:
            report = await self._tell_rest(attempt, report)
        if report is not None:
            await self._report(attempt, report)
        else:
            self._tell(attempt, "lost")
        self._attempts.pop(attempt.job.epoch, None)
        self._room.set()

    async def _execute(self, attempt: _Attempt) -> Report | None:
        """Run the executor; answers what to report, or None when the job is no longer ours."""
        job = attempt.job
        timer = None
        if job.timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(job.timeout_seconds, attempt.interrupt, ErrorCategory.TIMEOUT)
        result = b""
        try:
            if attempt.reason is None:
                attempt.interruptible = True
                result = encode(await self._executor(job, attempt.context))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if attempt.reason is None and task is not None and task.cancelling():
                raise  # the event loop is being torn down
            if attempt.reason is None:
                return self._failure(job, ErrorCategory.INTERNAL, "the executor cancelled itself")
            while task is not None and task.cancelling():
                task.uncancel()
        except Exception as error:  # noqa: BLE001 - executors are foreign code; whatever they raise ends the attempt
            if attempt.reason is None:
                return self._failed(job, error)
        finally:
            attempt.interruptible = False
            if timer is not None:
                timer.cancel()
        if attempt.reason is not None:
            return self._interrupted(attempt)
        most = self.duty.max_result_bytes
        if most is not None and len(result) > most:
            message = f"the result has {len(result)} bytes; at most {most} are allowed"
            return self._failure(job, ErrorCategory.INTERNAL, message)
        return JobCompletion(id=job.id, epoch=job.epoch, worker_id=self.duty.worker_id, result=Raw(result))

    def _failed(self, job: ClaimedJob, error: Exception) -> Failure:
        if isinstance(error, ExecutionError):
            return self._failure(job, error.category, error.message, error.retry_after)
        return self._failure(job, ErrorCategory.INTERNAL, _described(error))

    def _interrupted(self, attempt: _Attempt) -> Failure | None:
        job = attempt.job
        match attempt.reason:
            case ErrorCategory.WORKER_LOST:
                return None
            case ErrorCategory.TIMEOUT:
                return self._failure(job, ErrorCategory.TIMEOUT, f"ran longer than {job.timeout_seconds:g} s")
            case ErrorCategory.CANCELLED:
                return self._failure(job, ErrorCategory.CANCELLED, "cancelled on request")
            case ErrorCategory.INTERNAL:
                return self._failure(job, ErrorCategory.INTERNAL, f"the job's output was refused: {attempt.refusal}")
            case _:
                return self._failure(job, ErrorCategory.SHUTDOWN, "the worker was told to stop")

    def _failure(
        self, job: ClaimedJob, category: ErrorCategory, message: str, retry_after: timedelta | None = None
    ) -> Failure:
        return Failure(
            epoch=job.epoch,
            worker_id=self.duty.worker_id,
            category=category,
            message=shortened(message),
            retry_after_seconds=None if retry_after is None else max(0.0, retry_after.total_seconds()),
        )

    # Reporting

    async def _tell_rest(self, attempt: _Attempt, report: Report) -> Report | None:
        """Send what the executor told last, however long the service is away; answers what to report then."""
        pause, surprises = 0.0, 0
        while attempt.outbox.waiting:
            if attempt.reason is ErrorCategory.WORKER_LOST:
                return None
            try:
                await self._beat_once([attempt], [attempt.outbox.parcel()])
            except ServiceError as error:
                pause = await self._back_off(pause, "heartbeat_failed", error)
                continue
            except Exception as error:  # noqa: BLE001 - as in reporting
                surprises += 1
                if surprises <= _SURPRISES:
                    pause = await self._back_off(pause, "heartbeat_failed", error)
                    continue
                self._refuse(attempt, error)
        if attempt.reason is ErrorCategory.WORKER_LOST:
            return None
        if attempt.refusal and isinstance(report, JobCompletion):
            return _with_usage(self._interrupted(attempt), attempt)
        return report

    async def _report(self, attempt: _Attempt, report: Report | None) -> None:
        """Hand in a result or failure, however long the service is away."""
        pause, surprises = 0.0, 0
        while report is not None:
            try:
                if isinstance(report, JobCompletion):
                    await self._source.complete(report)
                else:
                    await self._source.fail(attempt.job.id, report)
            except (StaleEpoch, NotFound):
                self._tell(attempt, "lost")
                return
            except ServiceError as error:
                pause = await self._back_off(pause, "report_failed", error)
            except Exception as error:  # noqa: BLE001 - a report that is refused must not end the worker
                surprises += 1
                if not isinstance(error, CallerError) and surprises <= _SURPRISES:
                    pause = await self._back_off(pause, "report_failed", error)
                    continue
                if not isinstance(report, JobCompletion):
                    self._log.exception("report_refused", job_id=str(attempt.job.id))
                    return
                message = f"the result was refused: {_described(error)}"
                report, surprises = self._failure(attempt.job, ErrorCategory.INTERNAL, message), 0
            else:
                self._tell(attempt, report)
                return

    def _tell(self, attempt: _Attempt, outcome: Report | str) -> None:
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

    # Heartbeats

    async def _beat(self) -> None:
        pause = 0.0
        while True:
            await self._next_beat()
            everyone, self._beat_all = self._beat_all, False
            due = self._due(everyone)
            if not due:
                continue
            try:
                for attempts, parcels in self._calls(due):
                    await self._beat_once(attempts, parcels)
            except (ServiceError, CallerError) as error:
                self._beat_all = True  # at once on recovery: leases may be about to expire
                self._beat_now.set()
                pause = await self._back_off(pause, "heartbeat_failed", error)
                continue
            except Exception as error:  # noqa: BLE001 - as in claiming; a loop that ends would lose every lease
                self._beat_all = True
                self._beat_now.set()
                pause = await self._back_off(pause, "heartbeat_failed", error)
                continue
            pause = 0.0
            await asyncio.sleep(_BEAT_PAUSE)

    async def _next_beat(self) -> None:
        try:
            async with asyncio.timeout(self._beat_every / 2):
                await self._beat_now.wait()
        except TimeoutError:
            pass
        self._beat_now.clear()

    def _due(self, everyone: bool) -> list[_Attempt]:
        before = time.monotonic() - self._beat_every / 2
        return [
            attempt
            for attempt in self._attempts.values()
            if everyone or attempt.beat_at <= before or (attempt.outbox.waiting and not attempt.outbox.closed)
        ]

    def _calls(self, due: Sequence[_Attempt]) -> Iterator[tuple[list[_Attempt], list[Parcel | None]]]:
        """Attempts and what their heartbeats carry, divided into calls that are not too large.

        Whose executor has ended sends its last words itself.
        """
        attempts: list[_Attempt] = []
        parcels: list[Parcel | None] = []
        size = 0
        for attempt in due:
            parcel = attempt.outbox.parcel() if attempt.outbox.waiting and not attempt.outbox.closed else None
            size += parcel.size if parcel is not None else 0
            if attempts and size > _LARGEST_BEAT:
                yield attempts, parcels
                attempts, parcels, size = [], [], parcel.size if parcel is not None else 0
            attempts.append(attempt)
            parcels.append(parcel)
        yield attempts, parcels

    async def _beat_once(self, attempts: Sequence[_Attempt], parcels: Sequence[Parcel | None]) -> None:
        now = time.monotonic()
        pairs = list(zip(attempts, parcels, strict=True))
        try:
            answers = await self._source.heartbeat([self._heartbeat(attempt, parcel) for attempt, parcel in pairs])
        except _REFUSED as error:
            if len(pairs) > 1:  # one of them is refused: each alone
                for attempt, parcel in pairs:
                    await self._beat_once([attempt], [parcel])
                return
            answers = [error]
        self.connected.set()
        for (attempt, parcel), answer in zip(pairs, answers, strict=True):
            self._hear(attempt, parcel, answer, now)

    def _heartbeat(self, attempt: _Attempt, parcel: Parcel | None) -> JobHeartbeat:
        return JobHeartbeat(
            id=attempt.job.id,
            epoch=attempt.job.epoch,
            worker_id=self.duty.worker_id,
            lease_seconds=self.duty.lease.total_seconds(),
            **(parcel.fields if parcel is not None else {}),
        )

    def _hear(
        self, attempt: _Attempt, parcel: Parcel | None, answer: HeartbeatAnswer | CallerError, sent_at: float
    ) -> None:
        """Take in what a heartbeat brought back."""
        attempt.beat_at = sent_at
        if isinstance(answer, HeartbeatAnswer):
            if parcel is not None:
                attempt.outbox.stored(parcel)
            if answer.cancel_requested:
                attempt.interrupt(ErrorCategory.CANCELLED)
        elif isinstance(answer, (StaleEpoch, NotFound)):
            attempt.interrupt(ErrorCategory.WORKER_LOST)
        elif parcel is not None:
            self._refuse(attempt, answer)

    def _refuse(self, attempt: _Attempt, error: Exception) -> None:
        """What the executor told cannot be stored, and a job whose output has a hole must not complete."""
        self._log.warning("output_refused", job_id=str(attempt.job.id), error=_described(error))
        attempt.refusal = attempt.refusal or _described(error)
        attempt.outbox.clear()
        attempt.interrupt(ErrorCategory.INTERNAL)


def _with_usage(report: Report | None, attempt: _Attempt) -> Report | None:
    """A report that also tells what the attempt used."""
    return replace(report, usage=attempt.context.usage) if report is not None and attempt.context.usage else report


def _described(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; its outcome stays in it."""
    task.cancel()
    await asyncio.wait([task])
