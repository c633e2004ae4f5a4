"""The rules for changes of a job's state: pure functions without awaits, clock or settings.

A job is ``pending`` (ready or later), ``running`` (leased), ``waiting`` (a parked flow), or finished:
``completed``, ``failed``, ``cancelled``. Of finished jobs only a failed one changes, by an explicit retry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from penstock.failures import Category


class Status(StrEnum):
    """The state of a job."""

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
    """The delays between failed attempts. They double from ``base`` up to ``cap``, with ±50 % jitter."""

    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=5)
    max_lost_leases: int = 5  # a job whose workers keep dying ends after this many lost leases
    max_free_attempts: int = 1000  # attempts that are free of cost; after these, rate limits count as failures

    def backoff(self, failures: int, *, jitter: float) -> timedelta:
        """Return the delay before the next attempt after ``failures`` (≥ 1) of them; ``jitter`` is in [0, 1)."""
        doubled = self.base * float(2 ** min(max(failures, 1) - 1, 32))
        return min(self.cap, doubled) * (0.5 + jitter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The job's history, as far as the rules need it when an attempt ends."""

    attempt: int  # the number of this attempt; the first is 1
    failures: int  # attempts that counted against the limit so far, without this one
    losses: int  # leases lost so far, without this one
    max_attempts: int
    cancel_requested: bool
    is_run: bool = False  # of a flow: its steps are retried, not the run

    @property
    def free(self) -> int:
        """The number of attempts so far, including this one, that did not count against the limit."""
        return max(self.attempt - self.failures, 1)  # lost leases are failures too


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The job returns to pending, due after ``delay``."""

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

    ``retry_after`` is the least delay, as a provider or worker gave it; it applies to every category that is retried.
    Cancellation takes precedence over every retry. Rate limits do not count as failures, up to a limit.
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
            # Without retry_after the delay grows; with it the delay has a minimum, so that no job spins.
            least = policy.backoff(tally.free if retry_after is None else 1, jitter=jitter)
            burned = tally.free > policy.max_free_attempts
            if burned and failures + 1 >= tally.max_attempts:
                return Over(status=Status.FAILED)
            return Again(delay=max(floor, least), failures=failures + burned, losses=losses)
        case Category.WORKER_LOST if tally.is_run:  # its history is stored, so another runner can continue it
            return Again(delay=floor, failures=failures, losses=losses)
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
    """Return whether a cancel applies: to every job that has not finished."""
    return not status.finished
