"""A duty that is done again and again until it is told to stop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import timedelta

import structlog

from penstock.errors import DatabaseUnavailable
from penstock.processes.waiting import set_within

log = structlog.get_logger(__name__)


class Periodic(ABC):
    """Calls ``once`` every ``interval``; while the database is away it tries more slowly and says so once.

    ``stop`` is idempotent, waits until the pass in hand has ended, and is safe if ``run`` was never called.
    """

    def __init__(self, *, interval: timedelta) -> None:
        self._interval = interval.total_seconds()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    async def once(self) -> bool:
        """One pass; True when there is more to do at once."""

    async def run(self) -> None:
        """Do the duty until ``stop``."""
        self._stopped.clear()
        away = False
        try:
            while not self._stopping.is_set():
                more = False
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
                if not more:
                    await set_within(self._stopping, max(self._interval, 0.5) if away else self._interval)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """End after the pass in hand."""
        self._stopping.set()
        await self._stopped.wait()
