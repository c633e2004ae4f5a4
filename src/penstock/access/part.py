"""The part of this room in a gateway: the access check, and the routes of tenants, keys, tickets and the audit log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cached_property
from typing import Final

from penstock.access.check import Access
from penstock.access.http.keys import KeyRoutes
from penstock.access.http.tenants import TenantRoutes
from penstock.access.instance import Instance
from penstock.access.key_cache import KeyCache
from penstock.access.key_watch import KeyWatch
from penstock.access.service import AccessService
from penstock.access.tickets import Tickets
from penstock.errors import DatabaseUnavailable
from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.settings import Settings
from penstock.web.route import routes_of

_CHECK_SECONDS: Final = 2.0  # a gateway also starts without its database


class AccessParts:
    """One of each object of this room, connected."""

    def __init__(self, settings: Settings, database: Database, wakeups: Wakeups, instance: Instance) -> None:
        self._settings = settings
        self._database = database
        self._wakeups = wakeups
        self.instance = instance
        self._watching: asyncio.Task[None] | None = None

    @cached_property
    def cache(self) -> KeyCache:
        return KeyCache(self._database, self.instance.source, stale=self._settings.penstock_auth_stale)

    @cached_property
    def watch(self) -> KeyWatch:
        return KeyWatch(self._database, self.cache, self._wakeups)

    @cached_property
    def tickets(self) -> Tickets:
        return Tickets(self._database, self.cache, self.instance, self._settings.ai_service_token)

    @cached_property
    def access(self) -> Access:
        return Access(
            self._settings.ai_service_token,
            database=self._database,
            cache=self.cache,
            watch=self.watch,
            tickets=self.tickets,
        )

    @cached_property
    def service(self) -> AccessService:
        return AccessService(
            self._database, self.instance, self._wakeups, token_set=self._settings.ai_service_token is not None
        )

    @property
    def part(self) -> Part:
        return Part(
            routes=[*routes_of(KeyRoutes(self.service, self.tickets)), *routes_of(TenantRoutes(self.service))],
            start=self._start,
            stop=self._stop,
        )

    async def _start(self) -> None:
        """Begin to follow changes. Raises CannotStart if this host does not have the secret of its database."""
        with suppress(DatabaseUnavailable, TimeoutError):  # the secret is then compared when a key is first checked
            async with asyncio.timeout(_CHECK_SECONDS):
                await self.instance.check()
        self._watching = asyncio.create_task(self.watch.run())

    async def _stop(self) -> None:
        await self.watch.stop()
        if self._watching is not None:
            await self._watching
