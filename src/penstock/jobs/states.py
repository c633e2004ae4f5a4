"""What may happen to a job: pure rules, no awaits, no clock, no settings.

A job is ``pending`` (ready or later), ``running`` (leased), ``waiting`` (a parked flow), or finished:
``completed``, ``failed``, ``cancelled``. Finished changes only by an explicit retry of a failed job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from penstock.failures import Category


class Status(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in FINISHED


FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failed attempts are spaced. Delays double from ``base`` up to ``cap``, with ±50 % jitter."""

    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=5)
    max_lost_leases: int = 5  # a job whose workers keep dying ends after this many lost leases
    max_free_attempts: int = 1000  # attempts that cost nothing; from then on rate limits do

    def backoff(self, failures: int, *, jitter: float) -> timedelta:
        """Delay before the next attempt after ``failures`` (≥ 1) burned ones; ``jitter`` is in [0, 1)."""
        doubled = self.base * float(2 ** min(max(failures, 1) - 1, 32))
        return min(self.cap, doubled) * (0.5 + jitter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a running attempt knows of the job's past."""

    attempt: int  # this one; the first is 1
    failures: int  # attempts burned so far, this one not counted
    losses: int  # leases lost so far, this one not counted
    max_attempts: int
    cancel_requested: bool

    @property
    def free(self) -> int:
        """Attempts so far that cost nothing, this one counted."""
        return max(self.attempt - self.failures, 1)  # lost leases are failures too


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The job goes back to pending, due after ``delay``."""

    delay: timedelta
    failures: int
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The job is finished without a result."""

    status: Status


def after_failure(
    category: Category,
    tally: Tally,
    policy: RetryPolicy,
    *,
    jitter: float,
    retry_after: timedelta | None = None,
) -> Again | Over:
    """Decide what a job does when its attempt ended with ``category``.

    ``retry_after`` is a floor that a provider or worker states; it lengthens the delay of every
    retried category. Cancellation wins over every retry. Rate limits cost nothing, but not for ever.
    """
    if tally.cancel_requested or category is Category.CANCELLED:
        return Over(status=Status.CANCELLED)
    floor = retry_after or timedelta(0)
    failures, losses = tally.failures, tally.losses
    match category:
        case Category.BAD_INPUT | Category.EXPIRED:
            return Over(status=Status.FAILED)
        case Category.SHUTDOWN:
            return Again(delay=floor, failures=failures, losses=losses)
        case Category.RATE_LIMITED:
            # Where no wait is stated it grows; a stated one is never so short that the job comes back at once for ever.
            least = policy.backoff(tally.free if retry_after is None else 1, jitter=jitter)
            burned = tally.free > policy.max_free_attempts
            if burned and failures + 1 >= tally.max_attempts:
                return Over(status=Status.FAILED)
            return Again(delay=max(floor, least), failures=failures + burned, losses=losses)
        case Category.WORKER_LOST:
            losses += 1
            failures += 1
            if losses >= policy.max_lost_leases or failures >= tally.max_attempts:
                return Over(status=Status.FAILED)
            return Again(delay=floor, failures=failures, losses=losses)
        case Category.TIMEOUT | Category.PROVIDER_ERROR | Category.UNAVAILABLE | Category.INTERNAL:
            failures += 1
            if failures >= tally.max_attempts:
                return Over(status=Status.FAILED)
            delay = max(floor, policy.backoff(failures, jitter=jitter))
            return Again(delay=delay, failures=failures, losses=losses)
        case _:
            assert_never(category)


def may_retry(status: Status) -> bool:
    """Return whether an explicit retry applies: to failed jobs, and to running ones, which lose their lease."""
    return status in {Status.FAILED, Status.RUNNING}


def may_cancel(status: Status) -> bool:
    """Return whether a cancel applies: to everything that has not finished."""
    return not status.finished
