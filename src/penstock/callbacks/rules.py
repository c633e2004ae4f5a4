"""How attempts are judged, when they are repeated, and when an endpoint rests. Pure."""

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
MAX_AGE: Final = sum(SCHEDULE, timedelta(hours=1))  # a delivery that was not tried so often by then is dead as well
_JITTER: Final = 0.1  # a wait is this much longer or shorter, so that receivers are not hit by everything at once
_MAX_RETRY_AFTER: Final = timedelta(days=1)
_MAX_REQUESTED_REST: Final = timedelta(hours=1)
_FAILURES: Final = 5  # in a row, after which an endpoint rests
_FIRST_REST: Final = timedelta(seconds=10)  # doubles with each further failure
_MAX_REST: Final = timedelta(minutes=5)
QUICK: Final = timedelta(seconds=1)  # a response that takes longer is slow
_GONE: Final = 410
_OVERLOADED: Final = (429, 503)
_ALIVE: Final = (408, 429)  # the statuses below 500 that show a receiver in trouble


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
        """Whether the receiver wants no messages any more."""
        return self.status == _GONE

    @property
    def down(self) -> bool:
        """Whether it shows a receiver that does not work at present, whatever the message."""
        return self.status is None or self.status >= 500 or self.status in _ALIVE

    @property
    def requested_rest(self) -> timedelta:
        """The pause that the receiver requests for all messages."""
        if self.status not in _OVERLOADED or self.retry_after is None:
            return timedelta(0)
        return min(self.retry_after, _MAX_REQUESTED_REST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a delivery's attempt, with the wait before the next one."""

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
