"""A duty that runs periodically until it is stopped."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import timedelta

import structlog

from penstock.errors import DatabaseUnavailable
from penstock.processes.waiting import set_within

log = structlog.get_logger(__name__)

_AWAY_SECONDS = 0.5  # the least interval while the database is unavailable


class Periodic(ABC):
    """Calls ``once`` every ``interval`` or, if there is an ``idle_interval``, only that often until ``wake`` is called.

    ``once`` sets ``due_in`` if the next pass is due earlier. So an idle process rarely polls, and a lost wake-up costs
    ``idle_interval`` at most. While the database is unavailable the duty runs less often, which is logged once.

    ``stop`` is idempotent, waits until the pass in progress has ended, and is safe if ``run`` was never called.
    """

    def __init__(self, *, interval: timedelta, idle_interval: timedelta | None = None) -> None:
        self._interval = interval.total_seconds()
        self._idle_interval = self._interval if idle_interval is None else idle_interval.total_seconds()
        self._woken = asyncio.Event()  # set by a wake-up or by stop
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()
        self.due_in: timedelta | None = None  # time to the next pass without a wake-up, if ``once`` has set it

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    async def once(self) -> bool:
        """Run one pass; return whether there is more to do at once."""

    def wake(self) -> None:
        """Schedule the next pass ``interval`` after the last one, because something may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Run the duty until ``stop``."""
        self._stopped.clear()
        away = False
        try:
            while not self._stopping.is_set():
                more = False
                self.due_in = None
                self._woken.clear()
                try:
                    more = await self.once()
                    if away:
                        log.info("duty_resumed", duty=self.name)
                    away = False
                except DatabaseUnavailable as error:
                    if not away:
                        log.warning("duty_suspended", duty=self.name, reason=error.message)
                    away = True
                except Exception:  # one failed pass must not end the duty: the next may succeed
                    log.exception("duty_failed", duty=self.name)
                if away:
                    await set_within(self._stopping, max(self._interval, _AWAY_SECONDS))
                elif not more:
                    await self._until_due()
        finally:
            self._stopped.set()

    async def _until_due(self) -> None:
        ended_at = asyncio.get_running_loop().time()
        longest = self._idle_interval if self.due_in is None else self.due_in.total_seconds()
        if await set_within(self._woken, max(min(longest, self._idle_interval), self._interval)):
            await set_within(self._stopping, ended_at + self._interval - asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """Stop after the pass in progress."""
        self._stopping.set()
        self._woken.set()
        await self._stopped.wait()
