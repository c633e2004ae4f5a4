"""Growing pauses between starts of a process that keeps ending."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 30.0
_HEALTHY_AFTER_SECONDS: Final = 10.0


class Backoff:
    """How long to wait before the next start: twice as long each time, from the start again after a healthy run."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_SECONDS

    def after_run_of(self, seconds: float) -> float:
        """The pause after a run that lasted ``seconds``."""
        if seconds >= _HEALTHY_AFTER_SECONDS:
            self._next = FIRST_PAUSE_SECONDS
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE_SECONDS)
        return pause
