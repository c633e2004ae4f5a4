"""The part of this room in a gateway: admission of requests, and the routes of quotas."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cached_property
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.quotas.admission import Quotas
from penstock.quotas.http import QuotaRoutes
from penstock.quotas.rules import Rules
from penstock.quotas.service import QuotaService
from penstock.quotas.slices import Slices
from penstock.quotas.watch import QuotaWatch
from penstock.web.route import routes_of

_FIRST_SECONDS: Final = 2.0  # a gateway also starts without its database


class QuotaParts:
    """One of each object of this room, connected."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._rules = Rules()
        self._running: list[asyncio.Task[None]] = []

    @cached_property
    def slices(self) -> Slices:
        return Slices(self._database)

    @cached_property
    def watch(self) -> QuotaWatch:
        return QuotaWatch(self._database, self._rules, self._wakeups)

    @cached_property
    def quotas(self) -> Quotas:
        return Quotas(self._rules, self.slices)

    @cached_property
    def service(self) -> QuotaService:
        return QuotaService(self._database, self._wakeups)

    @property
    def part(self) -> Part:
        return Part(routes=routes_of(QuotaRoutes(self.service)), start=self._start, stop=self._stop)

    async def _start(self) -> None:
        """Read the quotas if the database can be reached; then follow its changes."""
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(_FIRST_SECONDS):
                await self.watch.once()
        self._running = [asyncio.create_task(self.watch.run()), asyncio.create_task(self.slices.run())]

    async def _stop(self) -> None:
        """Report what was used, and give back the rest."""
        await self.watch.stop()
        await self.slices.stop()
        await asyncio.gather(*self._running)
