"""Detect requests that block the thread that executes all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta


class Watchdog:
    """Tracks which request is on the CPU: requests are executed in the order in which they were sent.

    ``ask`` requests the stack of a request that has run for ``warn_after``; ``kill`` is called after ``kill_after``.
    """

    def __init__(
        self, warn_after: timedelta, kill_after: timedelta, *, ask: Callable[[], None], kill: Callable[[], None]
    ) -> None:
        self.warned = False  # the stack was requested, for the request on the CPU
        self.killed = False
        self._warn_after = warn_after.total_seconds()
        self._kill_after = kill_after.total_seconds()
        self._ask = ask
        self._kill = kill
        self._order: dict[int, None] = {}
        self._since = 0.0  # when the request on the CPU began
        self._timer: asyncio.TimerHandle | None = None

    @property
    def on_cpu(self) -> int | None:
        """The request that is executed; None if there is none."""
        return next(iter(self._order), None)

    def sent(self, request: int) -> None:
        """Note that a request was sent."""
        self._order[request] = None
        if len(self._order) == 1:
            self._next()

    def ended(self, request: int) -> None:
        """Note that a request has ended, or waits for its side effects off the CPU."""
        first = self.on_cpu == request
        self._order.pop(request, None)
        if first:
            self._next()

    def stop(self) -> None:
        """Stop watching."""
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self.warned = False
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._timer is None and self._order:
            self._timer = loop.call_later(self._warn_after, self._check)

    def _check(self) -> None:
        """Check the request on the CPU. One timer serves all requests, so a request does not cost one."""
        self._timer = None
        if not self._order:
            return
        loop = asyncio.get_running_loop()
        blocked = loop.time() - self._since
        if blocked >= self._kill_after and self.warned:
            self.killed = True
            self._kill()
            return
        if blocked >= self._warn_after and not self.warned:
            self.warned = True
            self._ask()
        left = (self._kill_after if self.warned else self._warn_after) - blocked
        self._timer = loop.call_later(max(0.01, left), self._check)
