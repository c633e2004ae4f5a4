"""The housekeeper: all duties in one process. Any number of housekeepers may run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock.events.tail import EVENTS
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.processes.periodic import Periodic
from penstock.processes.stopping import on_signals
from penstock.telemetry import logs

log = logs.get(__name__)


class Housekeeper:
    """Runs duties concurrently; changes of jobs wake them."""

    def __init__(self, wakeups: Wakeups, duties: Sequence[Periodic]) -> None:
        self.wakeups = wakeups
        self.wakeups.subscribe(EVENTS, self._wake)  # each change of a job stores an event
        self.duties = duties

    def _wake(self, _keys: Keys) -> None:
        for duty in self.duties:
            duty.wake()

    async def run(self) -> None:
        """Run all duties until ``stop``."""
        self.wakeups.start()
        try:
            await asyncio.gather(*(duty.run() for duty in self.duties))
        finally:
            await self.wakeups.stop()

    async def stop(self) -> None:
        """Stop every duty after its pass in progress."""
        await asyncio.gather(*(duty.stop() for duty in self.duties))


async def until_signal(housekeeper: Housekeeper) -> None:
    """Run a housekeeper until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    log.info("housekeeper_started")
    running = asyncio.create_task(housekeeper.run())
    stop = asyncio.create_task(stopping.wait())
    try:
        with on_signals(stopping.set):
            await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)  # duties end only when stopped
            await housekeeper.stop()
            await running
    finally:
        stop.cancel()
    log.info("housekeeper_stopped")
