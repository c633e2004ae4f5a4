"""Keep the known keys of a gateway in step with the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from penstock.access import store
from penstock.access.key_cache import KeyCache
from penstock.access.tenant_grants import TenantGrants
from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.tenants.principal import OPERATOR, Grant

TOPIC: Final = "access"  # of wake-ups: a tenant or a key has changed
_INTERVAL: Final = timedelta(milliseconds=500)
_IDLE_INTERVAL: Final = timedelta(seconds=2)
_READ_SECONDS: Final = 3.0  # after that, the connection is given up
_MINUTE: Final = 60.0
_BATCH: Final = 500  # keys in one statement


class KeyWatch(Periodic):
    """Reads the changes of keys and tenants twice a second while keys are in use, else every two seconds.

    ``any_key`` is whether the database holds any key, or has held one since the gateway started; None until that has
    been read. While there is no key, requests need none and run under ``open_grant``; the first key ends them.
    """

    def __init__(self, database: Database, cache: KeyCache, wakeups: Wakeups | None = None) -> None:
        super().__init__(interval=_INTERVAL, idle_interval=_IDLE_INTERVAL)
        self.tenants = TenantGrants()
        self._tenants_generation = 0  # of the last change that ``tenants`` contains
        self.any_key: bool | None = None
        self.open_grant = Grant()
        self.open_grant.replace(replace(OPERATOR, grant=self.open_grant))
        self._database = database
        self._cache = cache
        cache.first_known = self.wake
        self.on_change: list[Callable[[], None]] = []  # called after a pass that has found a change
        self._minute_at = time.monotonic() + _MINUTE
        if wakeups is not None:
            wakeups.subscribe(TOPIC, lambda _keys: self.wake())

    async def once(self) -> bool:
        """Read what has changed, and record which keys were used."""
        began = time.monotonic()
        cache = self._cache
        cache.expire()
        try:
            state = await self._apply_changes()
        except DatabaseUnavailable:
            cache.lose()
            raise
        cache.generation = state.generation  # from here on requests read tenants again
        if state.generation != self._tenants_generation:
            await self._refresh_tenants()
            self._tenants_generation = state.generation
            for changed in self.on_change:
                changed()
        cache.confirm(began)
        self._know(any_key=state.any_key or bool(self.any_key))
        if began >= self._minute_at:
            self._minute_at = began + _MINUTE
            await self._record_use(cache.minute())
        if len(cache):
            self.due_in = _INTERVAL
        return False

    async def _apply_changes(self) -> store.State:
        """Bring the known keys up to date. Raises DatabaseUnavailable."""
        cache = self._cache
        try:
            async with asyncio.timeout(_READ_SECONDS), self._database.acquire() as connection:
                state = await store.state(connection)
                if state.generation < cache.seen:  # a key was read meanwhile, or the database went back
                    state = await store.state(connection)
                restored = state.generation < cache.seen
                cache.seen = max(cache.seen, state.generation)
                moved = len(cache) > 0 and state.generation > cache.generation
                changed = await store.changed_keys(connection, cache.generation) if moved else []
        except TimeoutError as error:
            raise DatabaseUnavailable from error
        if moved:
            await cache.reload_secrets()
        if restored:
            cache.restart(state.generation)
        elif cache.lost:  # it may have been restored to an older state, and changed since
            await cache.refresh(cache.ids, state.generation)
        elif changed:
            await cache.refresh(changed, state.generation)
        return state

    async def _refresh_tenants(self) -> None:
        if self.tenants.known:
            async with self._database.acquire() as connection:
                await self.tenants.refresh(connection)

    async def first_read(self) -> None:
        """Return once it is known whether there are keys. Raises DatabaseUnavailable."""
        if self.any_key is None:
            async with self._database.acquire() as connection:
                self._know(any_key=(await store.state(connection)).any_key)

    def _know(self, *, any_key: bool) -> None:
        self.any_key = any_key
        if any_key and self.open_grant.principal is not None:
            self.open_grant.replace(None, "there is a key now, so requests need one")

    async def _record_use(self, ids: list[str]) -> None:
        for first in range(0, len(ids), _BATCH):
            async with self._database.acquire() as connection:
                await store.used(connection, ids[first : first + _BATCH])
