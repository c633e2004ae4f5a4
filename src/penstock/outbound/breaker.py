"""A breaker, which stops calls to a server that fails again and again. Pure; the caller passes the time in seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

_FAILURES: Final = 5  # consecutive failures that open the breaker
_FIRST_PAUSE: Final = 10.0  # seconds; doubles each time a trial fails
_MAX_PAUSE: Final = 300.0
_TRIAL_POLL: Final = 0.5  # seconds between polls by the other calls while a trial runs


class BreakerState(StrEnum):
    CLOSED = "closed"  # calls go through
    OPEN = "open"  # no calls go through for a while
    HALF_OPEN = "half_open"  # one call, the trial, goes through; its outcome decides


class Breaker:
    """Stops calls to a server that fails again and again, and lets one try from time to time."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.failures = 0  # consecutive failures
        self._until = 0.0
        self._pause = _FIRST_PAUSE
        self._trying = False

    def wait(self, now: float) -> float:
        """Return the seconds until a call may begin."""
        if self.state is BreakerState.OPEN:
            return max(self._until - now, 0.0)
        return _TRIAL_POLL if self._trying else 0.0

    def begin(self) -> bool:
        """Note that a call begins, after ``wait`` returned 0; return whether it is the trial that decides."""
        if self.state is BreakerState.CLOSED:
            return False
        self.state = BreakerState.HALF_OPEN
        self._trying = True
        return True

    def succeeded(self, *, trial: bool) -> None:
        """Note that the server works, whatever its response was. Calls that began before the breaker opened do not
        count, because they do not show the present state of the server."""
        if trial or self.state is BreakerState.CLOSED:
            self.state, self.failures, self._pause, self._trying = BreakerState.CLOSED, 0, _FIRST_PAUSE, False

    def failed(self, now: float, *, trial: bool) -> None:
        """Note that a call failed through a fault of the server."""
        if trial:
            self._pause = min(self._pause * 2, _MAX_PAUSE)
        elif self.state is not BreakerState.CLOSED:
            return
        self.failures += 1
        if trial or self.failures >= _FAILURES:
            self.state, self._until, self._trying = BreakerState.OPEN, now + self._pause, False

    def abandoned(self, *, trial: bool) -> None:
        """Note a call that was cancelled and so shows nothing; if it was the trial, the next call becomes the trial."""
        if trial:
            self._trying = False
