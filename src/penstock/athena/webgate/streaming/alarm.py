"""A deadline that is moved each time something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta


class Alarm:
    """Runs a callback when it has not been touched for a while. It reuses one timer, so touching it is cheap."""

    __slots__ = ("_callback", "_due", "_loop", "_seconds", "_timer")

    def __init__(self, after: timedelta, callback: Callable[[], object]) -> None:
        self._seconds = after.total_seconds()
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Start the wait anew."""
        self._due = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._check)

    def rest(self) -> None:
        """Suspend the wait until it is touched again."""
        self._due = None

    def stop(self) -> None:
        """Cancel the wait and its timer."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._check)
            return
        self._due = None
        self._callback()
