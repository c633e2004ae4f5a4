"""Sends the outcomes of attempts, however long the service is unavailable.

Results that become ready in the same iteration of the event loop are sent in one call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from penstock.errors import CallerError, NotFound, ServiceError, StaleEpoch
from penstock.jobs.work import Failure, JobCompletion
from penstock.tenants.principal import logged
from penstock.work.attempt import Attempt
from penstock.work.heartbeats import Heartbeats
from penstock.work.link import Link
from penstock.work.source import JobSource, Log

_SURPRISES: Final = 5  # unforeseen errors after which a report counts as refused

Observe = Callable[[str, float], None]  # an attempt's outcome, and its seconds


class Reports:
    """The outgoing reports of an engine.

    ``ended`` is called with each attempt once its report is stored, refused for good, or no longer wanted.
    """

    def __init__(
        self,
        source: JobSource,
        link: Link,
        heartbeats: Heartbeats,
        log: Log,
        *,
        ended: Callable[[Attempt], None],
        observe: Observe | None = None,
    ) -> None:
        self.outcomes: dict[str, int] = {}
        self._source = source
        self._link = link
        self._heartbeats = heartbeats
        self._log = log
        self._ended = ended
        self._observe = observe
        self._completed_now: list[Attempt] = []  # in this iteration of the event loop
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, attempt: Attempt) -> None:
        """Send the report of an attempt, whose executor has ended, soon."""
        if isinstance(attempt.report, JobCompletion) and not attempt.has_output:
            if not self._completed_now:
                asyncio.get_running_loop().call_soon(self._send_results)
            self._completed_now.append(attempt)
        else:
            self._start(self._finish(attempt))

    async def hand_in(self, attempts: Sequence[Attempt]) -> None:
        """Send several reports."""
        results = [attempt for attempt in attempts if isinstance(attempt.report, JobCompletion)]
        others = [attempt for attempt in attempts if not isinstance(attempt.report, JobCompletion)]
        await asyncio.gather(
            *(self._hand_in_results(same) for same in _by_tenant(results)),
            *(self._hand_in(attempt) for attempt in others),
        )

    async def cancel(self) -> None:
        """Abandon the reports that are being sent; their attempts have not ended."""
        self._completed_now.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send_results(self) -> None:
        attempts, self._completed_now = self._completed_now, []
        for same in _by_tenant(attempts):
            self._start(self._hand_in_results(same))

    async def _finish(self, attempt: Attempt) -> None:
        """Send the unsent output, then the report: a job whose output has a gap must not complete."""
        if attempt.report is not None:
            await self._heartbeats.send_rest(attempt)
        if attempt.lost:
            attempt.report = None
        await self._hand_in(attempt)

    async def _hand_in_results(self, attempts: Sequence[Attempt]) -> None:
        """Send results of one tenant's jobs together, and each that the service refuses on its own."""
        left, pause = list(attempts), 0.0
        while len(left) > 1:
            reports = [attempt.report for attempt in left if isinstance(attempt.report, JobCompletion)]
            if len(reports) < len(left):  # interrupted while the service was unavailable
                break
            try:
                results = await self._source.complete(left[0].job.tenant, reports)
            except ServiceError as error:
                pause = await self._link.back_off(pause, "report_failed", error)
                continue
            except Exception:  # noqa: BLE001 - send each on its own, which handles the error
                break
            left = self._settled(left, results)
            break
        await asyncio.gather(*(self._hand_in(attempt) for attempt in left))

    def _settled(self, attempts: Iterable[Attempt], results: Sequence[object]) -> list[Attempt]:
        """Note the outcome of each attempt; return those whose report has to be sent again."""
        again: list[Attempt] = []
        for attempt, result in zip(attempts, results, strict=True):
            if not isinstance(result, Exception):
                self._completed(attempt)
            elif isinstance(result, (StaleEpoch, NotFound)):
                self._failed(attempt, None)
            else:
                again.append(attempt)
        return again

    async def _hand_in(self, attempt: Attempt) -> None:
        pause, surprises = 0.0, 0
        while attempt.report is not None:
            report = attempt.report
            try:
                await self._send(attempt, report)
            except (StaleEpoch, NotFound):
                break
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
                    self._ended(attempt)
                    return
            else:
                if isinstance(report, Failure):
                    self._failed(attempt, report)
                else:
                    self._completed(attempt)
                return
        self._failed(attempt, None)

    async def _send(self, attempt: Attempt, report: JobCompletion | Failure) -> None:
        if isinstance(report, Failure):
            await self._source.fail(attempt.job.tenant, attempt.job.id, report)
            return
        (result,) = await self._source.complete(attempt.job.tenant, [report])
        if isinstance(result, Exception):
            raise result

    def _completed(self, attempt: Attempt) -> None:
        seconds = time.monotonic() - attempt.begun_at
        job = attempt.job
        self._log.debug("attempt_completed", job_id=job.id, attempt=job.attempt, seconds=seconds, **logged(job.tenant))
        self._end(attempt, "completed", seconds)

    def _failed(self, attempt: Attempt, failure: Failure | None) -> None:
        """Send the failure of an attempt; None means that its lease is no longer held."""
        seconds = time.monotonic() - attempt.begun_at
        if attempt.settled is not None:
            self._end(attempt, attempt.settled, seconds)
            return
        outcome = "lost" if failure is None else failure.category.value
        self._log.info(
            "attempt_failed",
            job_id=str(attempt.job.id),
            attempt=attempt.job.attempt,
            category=outcome,
            message="the lease is no longer held" if failure is None else failure.message,
            seconds=round(seconds, 3),
            **logged(attempt.job.tenant),
        )
        self._end(attempt, outcome, seconds)

    def _end(self, attempt: Attempt, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if self._observe is not None:
            self._observe(outcome, seconds)
        self._ended(attempt)


def _by_tenant(attempts: Sequence[Attempt]) -> Iterable[Sequence[Attempt]]:
    """Group attempts by the tenant of their jobs; usually they have the same."""
    if len({attempt.job.tenant for attempt in attempts}) <= 1:
        return [attempts] if attempts else []
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.job.tenant, []).append(attempt)
    return groups.values()
