"""Send one heartbeat call for all jobs that a worker holds.

It extends their leases and carries the reports of executors (progress, output, log); the response names cancelled jobs
and lost leases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from penstock.errors import CallerError, InvalidInput, MalformedBody, NotFound, ServiceError, StaleEpoch, TooLarge
from penstock.failures import Category
from penstock.jobs.work import HeartbeatResult, JobHeartbeat
from penstock.processes.waiting import set_within
from penstock.tenants.principal import logged
from penstock.work.attempt import Attempt
from penstock.work.link import Link, described
from penstock.work.outbox import Parcel
from penstock.work.source import Duty, JobSource, Log

_PAUSE: Final = 0.25  # seconds between heartbeats, however many are requested
_LARGEST: Final = 900 * 1024  # bytes of reported output in one call for many jobs
_REFUSED: Final = (InvalidInput, MalformedBody, TooLarge)  # errors for content that the service cannot store
_MAX_UNFORESEEN: Final = 5  # errors of unknown kinds after which a job's last output counts as refused

Call = tuple[list[Attempt], list[Parcel | None]]


class Heartbeats:
    """Extends the leases of ``attempts``, which others add and remove."""

    def __init__(self, source: JobSource, duty: Duty, link: Link, log: Log, attempts: Mapping[int, Attempt]) -> None:
        self._source = source
        self._duty = duty
        self._link = link
        self._log = log
        self._attempts = attempts
        self._every = min(duty.lease.total_seconds() / 3, duty.beat.total_seconds())
        self._now = asyncio.Event()
        self._all = False

    def soon(self) -> None:
        """Request an early heartbeat, because an executor reported something."""
        self._now.set()

    def all_soon(self) -> None:
        """Request an early heartbeat for all jobs: one may have been cancelled, or a lease may be about to expire."""
        if self._attempts:
            self._all = True
            self._now.set()

    async def run(self) -> None:
        """Send heartbeats for ever; if the loop ended, every lease would be lost."""
        pause = 0.0
        while True:
            await self._next()
            everyone, self._all = self._all, False
            due = self._due(everyone)
            if not due:
                continue
            try:
                for attempts, parcels in _calls(due):
                    await self._beat(attempts, parcels)
            except Exception as error:  # noqa: BLE001 - the service is unavailable, or the error is unforeseen
                self.all_soon()
                pause = await self._back_off(pause, error)
                continue
            pause = 0.0
            await asyncio.sleep(_PAUSE)

    async def send_rest(self, attempt: Attempt) -> None:
        """Send an executor's last output, however long the service is unavailable, unless the lease is lost."""
        pause, unforeseen = 0.0, 0
        while attempt.has_output and not attempt.lost:
            try:
                await self._beat([attempt], [attempt.context.outbox.parcel()])
            except ServiceError as error:
                pause = await self._back_off(pause, error)
            except Exception as error:  # noqa: BLE001 - as in run
                unforeseen += 1
                if unforeseen > _MAX_UNFORESEEN:
                    self._refuse(attempt, error)
                else:
                    pause = await self._back_off(pause, error)

    async def _back_off(self, pause: float, error: Exception) -> float:
        """Wait after a failed call. After an outage each lease has its full length again, so retry well within it."""
        return await self._link.back_off(pause, "heartbeat_failed", error, longest=self._every / 2)

    async def _next(self) -> None:
        await set_within(self._now, self._every / 2)
        self._now.clear()

    def _due(self, everyone: bool) -> list[Attempt]:
        before = time.monotonic() - self._every / 2
        return [
            attempt
            for attempt in self._attempts.values()
            if everyone or attempt.beat_at <= before or _has_news(attempt)
        ]

    async def _beat(self, attempts: Sequence[Attempt], parcels: Sequence[Parcel | None]) -> None:
        """Send the heartbeats of attempts at jobs of one tenant."""
        now = time.monotonic()
        pairs = list(zip(attempts, parcels, strict=True))
        try:
            results = await self._source.heartbeat(
                attempts[0].job.tenant, [self._heartbeat(attempt, parcel) for attempt, parcel in pairs]
            )
        except _REFUSED as error:
            if len(pairs) > 1:  # one of them was refused, so send each on its own
                for attempt, parcel in pairs:
                    await self._beat([attempt], [parcel])
                return
            results = [error]
        self._link.connected.set()
        for (attempt, parcel), result in zip(pairs, results, strict=True):
            self._take_in(attempt, parcel, result, now)

    def _heartbeat(self, attempt: Attempt, parcel: Parcel | None) -> JobHeartbeat:
        return JobHeartbeat(
            id=attempt.job.id,
            epoch=attempt.job.epoch,
            worker_id=self._duty.worker_id,
            lease_seconds=self._duty.lease.total_seconds(),
            **(parcel.fields if parcel is not None else {}),
        )

    def _take_in(
        self, attempt: Attempt, parcel: Parcel | None, result: HeartbeatResult | CallerError, sent_at: float
    ) -> None:
        """Act on the response to a heartbeat."""
        attempt.beat_at = sent_at
        if isinstance(result, HeartbeatResult):
            if parcel is not None:
                attempt.context.outbox.stored(parcel)
            if result.cancel_requested:
                attempt.interrupt(Category.CANCELLED)
        elif isinstance(result, (StaleEpoch, NotFound)):
            attempt.interrupt(Category.WORKER_LOST)
        elif parcel is not None:
            self._refuse(attempt, result)

    def _refuse(self, attempt: Attempt, error: Exception) -> None:
        job = attempt.job
        self._log.warning("output_refused", job_id=str(job.id), error=described(error), **logged(job.tenant))
        attempt.refuse(error)


def _has_news(attempt: Attempt) -> bool:
    """Return whether output waits for a heartbeat. After the executor has ended, ``send_rest`` sends it."""
    return attempt.has_output and not attempt.context.closed


def _calls(due: Sequence[Attempt]) -> Iterator[Call]:
    """Divide attempts, with what their heartbeats carry, into calls of one tenant and limited size."""
    attempts: list[Attempt] = []
    parcels: list[Parcel | None] = []
    size = 0
    for attempt in sorted(due, key=lambda attempt: attempt.job.tenant):
        parcel = attempt.context.outbox.parcel() if _has_news(attempt) else None
        own = parcel.size if parcel is not None else 0
        if attempts and (size + own > _LARGEST or attempt.job.tenant != attempts[0].job.tenant):
            yield attempts, parcels
            attempts, parcels, size = [], [], 0
        attempts.append(attempt)
        parcels.append(parcel)
        size += own
    yield attempts, parcels
