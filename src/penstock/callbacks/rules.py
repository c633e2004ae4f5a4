"""Rules: the outcome of an attempt, the time of the next one, and the rests of endpoints. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

# The schedule of Standard Webhooks: the wait after each attempt that failed. After the last one the delivery is dead.
SCHEDULE: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
MAX_AGE: Final = sum(SCHEDULE, timedelta(hours=1))  # a delivery that was not tried that often by then is dead as well
_JITTER: Final = 0.1  # waits vary by this share, so that a receiver does not get everything at the same time
_MAX_RETRY_AFTER: Final = timedelta(days=1)
_MAX_REQUESTED_REST: Final = timedelta(hours=1)
_FAILURES: Final = 5  # in a row, after which an endpoint rests
_FIRST_REST: Final = timedelta(seconds=10)  # doubles with each further failure
_MAX_REST: Final = timedelta(minutes=5)
QUICK: Final = timedelta(seconds=1)  # a response that takes longer is slow
_GONE: Final = 410
_OVERLOADED: Final = (429, 503)
_ALIVE: Final = (408, 429)  # statuses below 500 that show an overloaded receiver


class Result(StrEnum):
    """What happens to a delivery after an attempt."""

    DELIVERED = "delivered"
    AGAIN = "again"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The outcome of one attempt. ``status`` is None if there was no response; ``error`` is the reason."""

    status: int | None
    seconds: float
    error: str = ""
    excerpt: str = ""  # the beginning of the body
    retry_after: timedelta | None = None

    @property
    def success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def quick(self) -> bool:
        return self.success and self.seconds <= QUICK.total_seconds()

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more messages."""
        return self.status == _GONE

    @property
    def down(self) -> bool:
        """Whether it shows that the receiver does not work at the moment, whatever the message."""
        return self.status is None or self.status >= 500 or self.status in _ALIVE

    @property
    def requested_rest(self) -> timedelta:
        """The pause that the receiver requests for all messages."""
        if self.status not in _OVERLOADED or self.retry_after is None:
            return timedelta(0)
        return min(self.retry_after, _MAX_REQUESTED_REST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of an attempt, with the wait before the next one."""

    result: Result
    delay: timedelta = timedelta(0)


def judge(response: Response, tries: int, *, jitter: float) -> Verdict:
    """Decide after attempt number ``tries`` of a delivery; ``jitter`` is a random number from 0 to 1."""
    if response.success:
        return Verdict(result=Result.DELIVERED)
    if response.gone or tries > len(SCHEDULE):
        return Verdict(result=Result.DEAD)
    delay = SCHEDULE[tries - 1] * (1 + _JITTER * (2 * jitter - 1))
    if response.retry_after is not None:
        delay = max(delay, min(response.retry_after, _MAX_RETRY_AFTER))
    return Verdict(result=Result.AGAIN, delay=delay)


def rest_after(failures: int) -> timedelta:
    """Return how long an endpoint rests after so many failures in a row."""
    if failures < _FAILURES:
        return timedelta(0)
    doublings = min(failures - _FAILURES, 10)  # after which the longest rest is reached
    return min(_FIRST_REST * int(2**doublings), _MAX_REST)
