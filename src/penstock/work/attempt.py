"""One attempt at one job: runs and interrupts its executor, and builds the report of its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from msgspec import Raw
from msgspec.structs import replace

from penstock.failures import CallFailed, Category
from penstock.jobs.fields import MAX_RETRY_AFTER_SECONDS
from penstock.jobs.work import ClaimedJob, Failure, JobCompletion
from penstock.tenants.principal import DEFAULT_TENANT, TenantId
from penstock.work.context import JobContext, encode, shortened
from penstock.work.executor import Executor
from penstock.work.link import described
from penstock.work.settled import Settled
from penstock.work.source import Duty, Report

R = TypeVar("R", bound=Report)


class Attempt:
    """One run of one job by this process. ``changed`` is called after each report of the executor; ``tenant`` owns the
    job.

    ``report`` is the outcome, until it is stored.
    """

    __slots__ = (
        "_duty",
        "_interruptible",
        "_reason",
        "_refusal",
        "beat_at",
        "begun_at",
        "context",
        "job",
        "report",
        "settled",
        "task",
    )

    def __init__(
        self, job: ClaimedJob, duty: Duty, now: float, changed: Callable[[], None], *, tenant: TenantId = DEFAULT_TENANT
    ) -> None:
        self.job = job
        self.context = JobContext(changed, tenant)
        self.begun_at = now
        self.beat_at = now  # when the lease was last known to be extended
        self.task: asyncio.Task[None] | None = None  # the task that runs the executor, while it runs
        self.report: Report | None = None
        self.settled: str | None = None  # the outcome, if the executor has ended the lease itself
        self._duty = duty
        self._interruptible = False
        self._reason: Category | None = (
            None  # why it was interrupted; WORKER_LOST: this worker no longer holds the lease
        )
        self._refusal = ""  # why the service refused the executor's output

    @property
    def has_output(self) -> bool:
        """Whether a report of the executor is not yet stored."""
        return self.context.used_outbox is not None and self.context.used_outbox.waiting

    @property
    def lost(self) -> bool:
        """Whether this worker no longer holds the lease."""
        return self._reason is Category.WORKER_LOST

    @property
    def was_interrupted(self) -> bool:
        return self._reason is not None

    def interrupt(self, reason: Category) -> None:
        """Stop the executor unless it has ended. A lost lease takes precedence over every other reason."""
        if self._reason is None or reason is Category.WORKER_LOST:
            self._reason = reason
        if self._interruptible and self.task is not None:
            self.task.cancel()

    def refuse(self, error: Exception) -> None:
        """End an attempt whose output the service refuses: a job whose output has a gap must not complete."""
        self._refusal = self._refusal or described(error)
        self.context.outbox.clear()
        self.interrupt(Category.INTERNAL)
        if isinstance(self.report, JobCompletion):
            self.report = self.interrupted()

    async def execute(self, executor: Executor) -> None:
        """Run the executor; afterwards ``report`` is None if this worker no longer holds the lease, or has ended it."""
        report = await self._executed(executor)
        self.report = None if report is None else self._with_usage(report)
        self.context.close()

    def interrupted(self) -> Failure | None:
        """Return the report of an interrupted attempt; None if the lease is no longer held."""
        match self._reason:
            case Category.WORKER_LOST:
                return None
            case Category.TIMEOUT:
                found = self.failure(Category.TIMEOUT, f"ran longer than {self.job.timeout_seconds:g} s")
            case Category.CANCELLED:
                found = self.failure(Category.CANCELLED, "cancelled on request")
            case Category.INTERNAL:
                found = self.failure(Category.INTERNAL, f"the job's output was refused: {self._refusal}")
            case _:
                found = self.failure(Category.SHUTDOWN, "the worker was stopped")
        return self._with_usage(found)

    def failure(self, category: Category, message: str, retry_after: timedelta | None = None) -> Failure:
        """Return the report of an attempt that ended without a result."""
        seconds = None if retry_after is None else min(max(0.0, retry_after.total_seconds()), MAX_RETRY_AFTER_SECONDS)
        return Failure(
            epoch=self.job.epoch,
            worker_id=self._duty.worker_id,
            category=category,
            message=shortened(message),
            retry_after_seconds=seconds,
        )

    def simplify(self, error: Exception) -> bool:
        """Replace a report that the service refuses with a simpler one; return False if there is none."""
        report = self.report
        if isinstance(report, JobCompletion):
            refused = self.failure(Category.INTERNAL, f"the result was refused: {described(error)}")
            self.report = replace(refused, usage=report.usage)
        elif report is not None and report != (bare := self.failure(report.category, "")):
            self.report = bare
        else:
            return False
        return True

    async def _executed(self, executor: Executor) -> Report | None:
        job = self.job
        timer = None
        if job.timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(job.timeout_seconds, self.interrupt, Category.TIMEOUT)
        result = b""
        try:
            if self._reason is None:
                self._interruptible = True
                result = encode(await executor(job, self.context))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._reason is None and task is not None and task.cancelling():
                raise  # the event loop is being torn down
            if self._reason is None:
                return self.failure(Category.INTERNAL, "the executor cancelled itself")
            while task is not None and task.cancelling():
                task.uncancel()
        except CallFailed as error:
            if self._reason is None:
                return self.failure(error.category, str(error), error.retry_after)
        except Settled as end:
            self.settled = end.outcome
            return None
        except Exception as error:  # noqa: BLE001 - executors are foreign code; any error in them ends the attempt
            if self._reason is None:
                return self.failure(Category.INTERNAL, described(error))
        finally:
            self._interruptible = False
            if timer is not None:
                timer.cancel()
        if self._reason is not None:
            return self.interrupted()
        max_bytes = self._duty.max_result_bytes
        if max_bytes is not None and len(result) > max_bytes:
            message = f"the result has {len(result)} bytes; at most {max_bytes} are allowed"
            return self.failure(Category.INTERNAL, message)
        return JobCompletion(id=job.id, epoch=job.epoch, worker_id=self._duty.worker_id, result=Raw(result))

    def _with_usage(self, report: R) -> R:
        """Return the report with the attempt's usage of providers."""
        return replace(report, usage=list(self.context.usage)) if self.context.usage else report
