"""Timers of one replica's calls: their time limit, and the time for which the replica may keep results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from penstock.models.host.calls import LiveCall
from penstock.models.host.in_flight import InFlight
from penstock.models.host.sessions import LiveSession

_STOP_SECONDS: Final = 1.0  # for a call to stop after its time limit, before its replica is killed
_SESSION_STOP_SECONDS: Final = 10.0  # for a session: an idle client must not cost the others of its replica theirs
_FLUSH_SECONDS: Final = 0.005  # a replica keeps a result for twice as long at most


class Deadlines:
    """Checks the time limits of a replica's calls, while it has any.

    ``time_out`` is called with each call whose time limit has passed, and should cancel it; ``overstay`` when such a
    call does not stop; ``flush`` when the replica should send results that it keeps until it has more.
    """

    def __init__(
        self,
        in_flight: InFlight,
        *,
        timeout: float,
        session_timeout: float,
        time_out: Callable[[LiveCall], None],
        overstay: Callable[[], None],
        flush: Callable[[], None],
    ) -> None:
        self._in_flight = in_flight
        self._timeout = timeout
        self._session_timeout = session_timeout
        self._shortest = min(timeout, session_timeout)
        self._time_out = time_out
        self._overstay = overstay
        self._flush = flush
        self._timer: asyncio.TimerHandle | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._returned_before = self._flushed_at = -1  # calls that had ended at the last check, and at the last flush

    def watch(self) -> None:
        """Start the timers that newly sent calls need."""
        if self._timer is None or self._timeout != self._session_timeout:
            self._watch_timeout()
        if self._in_flight.ahead and self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._check_flush)

    def _watch_timeout(self) -> None:
        """Check when the first of the new calls may have reached its limit; the timer may be for a longer one."""
        loop = asyncio.get_running_loop()
        soonest = loop.time() + self._shortest
        if self._timer is not None:
            if self._timer.when() <= soonest:
                return
            self._timer.cancel()
        self._timer = loop.call_at(soonest, self._check_timeout)

    def close(self) -> None:
        """Stop the timers."""
        for timer in (self._timer, self._flush_timer):
            if timer is not None:
                timer.cancel()

    def _check_flush(self) -> None:
        """Flush if no call has ended since the last check: the next result may take long."""
        self._flush_timer = None
        if not self._in_flight.ahead:
            return
        returned = self._in_flight.returned
        if returned == self._returned_before and self._flushed_at != returned:
            self._flushed_at = returned
            self._flush()
        self._returned_before = returned
        self._flush_timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._check_flush)

    def _check_timeout(self) -> None:
        """Fail calls whose time limit has passed. The replica may stop them; otherwise it is killed."""
        self._timer = None
        now = time.perf_counter()
        due: list[float] = []
        for call in list(self._in_flight.running.values()):
            limit, stop = self._timeout, _STOP_SECONDS
            if isinstance(call, LiveSession):
                limit, stop = self._session_timeout, _SESSION_STOP_SECONDS
            overdue = now - call.limited_from - limit
            if overdue < 0:
                due.append(-overdue)
            elif not call.stop_at:
                self._time_out(call)
                due.append(stop)
            elif overdue < stop:
                due.append(stop - overdue)
            else:
                self._overstay()
                return
        if due:
            self._timer = asyncio.get_running_loop().call_later(min(due), self._check_timeout)
