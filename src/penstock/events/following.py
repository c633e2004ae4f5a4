"""When a tail may read the next rows from Redis, and when it has to read PostgreSQL.

A wake-up says that rows were stored; Redis has them a little later, when the relay has copied them. So after a wake-up
Redis is read for a moment, repeatedly. If it still has nothing, or other rows, PostgreSQL is read; if that had rows,
Redis is behind and is left alone for a while.
"""

from __future__ import annotations

from typing import Final

from penstock.events.event import StoredEvent
from penstock.events.position import Position
from penstock.events.recent import RecentRows

# Seconds:
_WINDOW: Final = 0.25  # after a wake-up in which Redis is expected to get the rows
_POLL: Final = 0.01
_CHECK: Final = 1.0  # between two comparisons with PostgreSQL
_REST: Final = 1.0  # without Redis, because it was behind

_MAX_BEHIND: Final = 1000  # rows


class Following:
    """The rows of a tenant in Redis as one tail reads them. Times are those of the event loop."""

    def __init__(self, recent: RecentRows, tenant: int) -> None:
        self._recent = recent
        self._tenant = tenant
        self._waiting_since: float | None = None  # the first wake-up after the newest row
        self._polled_until = 0.0
        self._compared_at = 0.0
        self._resting_until = 0.0

    def woken(self, now: float) -> None:
        """Expect rows, because some were stored."""
        self._polled_until = now + _WINDOW
        if self._waiting_since is None:
            self._waiting_since = now

    async def read(self, end: Position, now: float) -> list[StoredEvent] | None:
        """Return the rows behind ``end``, or none as long as they may still come; None: read PostgreSQL."""
        if now < self._resting_until or not self._recent.connected:
            return None
        rows = await self._recent.read(self._tenant, end)
        if rows:
            self._waiting_since = None
        elif rows is not None and self._has_waited_enough(now):
            return None
        return rows

    def pause(self, now: float) -> float:
        """Return the seconds to the next pass without a wake-up."""
        return _POLL if now < self._polled_until else max(0.0, self._compared_at + _CHECK - now)

    def compared(self, now: float, *, missed: int) -> None:
        """Note that PostgreSQL was read instead, and had ``missed`` rows."""
        self._compared_at = now
        if self._waiting_since is not None and missed and now >= self._resting_until:
            self._resting_until = now + _REST
        self._waiting_since = None

    def to_be_checked(self, now: float) -> bool:
        """Return whether the end was not compared with PostgreSQL for a while."""
        return now >= self._compared_at + _CHECK

    def checked(self, now: float, *, behind: int) -> None:
        """Note that the end was compared, and how many rows behind that of PostgreSQL it was."""
        self._compared_at = now
        if behind > _MAX_BEHIND:
            self._resting_until = now + _REST

    def _has_waited_enough(self, now: float) -> bool:
        """Return whether Redis should have had rows by now, or is quiet and was not compared for a while."""
        return self.to_be_checked(now) if self._waiting_since is None else now >= self._waiting_since + _WINDOW
