"""Growing delays between starts of a process that keeps ending."""

from __future__ import annotations

from typing import Final

FIRST_DELAY_SECONDS: Final = 0.1
MAX_DELAY_SECONDS: Final = 30.0
_HEALTHY_AFTER_SECONDS: Final = 10.0


class Backoff:
    """Computes the delay before the next start: it doubles each time, and is reset after a healthy run."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY_SECONDS

    def after_run_of(self, seconds: float) -> float:
        """Return the delay in seconds after a run that lasted ``seconds``."""
        if seconds >= _HEALTHY_AFTER_SECONDS:
            self._next = FIRST_DELAY_SECONDS
        delay, self._next = self._next, min(self._next * 2, MAX_DELAY_SECONDS)
        return delay
