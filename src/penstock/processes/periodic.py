"""A duty that is done again and again until it is stopped."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import timedelta

import structlog

from penstock.errors import DatabaseUnavailable
from penstock.processes.waiting import set_within

log = structlog.get_logger(__name__)

_AWAY_SECONDS = 0.5  # between attempts while the database is away, at least


class Periodic(ABC):
    """Calls ``once`` every ``interval``; with an ``idle_interval`` only that often until ``wake`` is called.

    A pass that is due earlier than that sets ``due_in``. So an idle process rarely polls, and a lost wake-up costs
    ``idle_interval`` at most. While the database is away the duty is tried more slowly, which is logged once.

    ``stop`` is idempotent, waits until the pass in progress has ended, and is safe if ``run`` was never called.
    """

    def __init__(self, *, interval: timedelta, idle_interval: timedelta | None = None) -> None:
        self._interval = interval.total_seconds()
        self._idle_interval = self._interval if idle_interval is None else idle_interval.total_seconds()
        self._woken = asyncio.Event()  # by a wake-up, or to stop
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()
        self.due_in: timedelta | None = None  # when the next pass is due without a wake-up, if ``once`` knows

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    async def once(self) -> bool:
        """One pass; True when there is more to do at once."""

    def wake(self) -> None:
        """Something may have changed: the next pass comes ``interval`` after the last one."""
        self._woken.set()

    async def run(self) -> None:
        """Do the duty until ``stop``."""
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
                except Exception:  # a duty must not end by one bad pass: the next may go well
                    log.exception("duty_failed", duty=self.name)
                if away:
                    await set_within(self._stopping, max(self._interval, _AWAY_SECONDS))
                elif not more:
                    await self._until_due()
        finally:
            self._stopped.set()

    async def _until_due(self) -> None:
        if not await set_within(self._stopping, self._interval):
            longest = self._idle_interval if self.due_in is None else self.due_in.total_seconds()
            await set_within(self._woken, min(longest, self._idle_interval) - self._interval)

    async def stop(self) -> None:
        """End after the pass in progress."""
        self._stopping.set()
        self._woken.set()
        await self._stopped.wait()
