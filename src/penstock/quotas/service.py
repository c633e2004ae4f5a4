"""The use cases of managing quotas. Each change is one transaction, with its row in the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg

from penstock.access import store as access_store
from penstock.access.audit import Action, Sender, change
from penstock.access.key_watch import TOPIC
from penstock.errors import InvalidInput, NotFound, Overloaded
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.quotas import store
from penstock.quotas.quota import Quota, QuotaSetting
from penstock.tenants.principal import TenantId

_MAX_QUOTAS: Final = 1000  # per tenant


class QuotaService:
    """Manages the quotas of tenants."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups

    async def quotas(self, tenant: TenantId, *, user: str | None = None) -> list[Quota]:
        """Return a tenant's quotas with their use; for quotas of every user, the use of ``user``."""
        async with self._database.acquire() as connection:
            return await store.quotas(connection, tenant, user=user)

    async def put(self, sender: Sender, setting: QuotaSetting) -> Quota:
        """Set a quota of the sender's tenant: create it, or change its limit."""
        setting.check()
        tenant = sender.principal.tenant
        async with self._changing(tenant) as connection:
            if setting.key is not None and not await store.has_key(connection, tenant, setting.key):
                raise InvalidInput.of("key", "is not the id of a key of this tenant")
            before = {one.id: one for one in await store.quotas(connection, tenant)}
            if len(before) >= _MAX_QUOTAS:
                raise Overloaded(f"this tenant has {_MAX_QUOTAS} quotas; remove some first")
            quota_id = await store.put(connection, tenant, setting)
            (after,) = await store.quotas(connection, tenant, quota_id=quota_id)
            old = _described(before[quota_id]) if quota_id in before else {}
            await _record(connection, sender, change("quota.set", str(quota_id), old, _described(after)))
        return after

    async def remove(self, sender: Sender, quota_id: UUID) -> None:
        """Remove a quota, with all that was counted for it. Raises NotFound."""
        tenant = sender.principal.tenant
        async with self._changing(tenant) as connection:
            found = await store.quotas(connection, tenant, quota_id=quota_id)
            if not found:
                raise NotFound(f"there is no quota {quota_id}")
            await store.remove(connection, tenant, quota_id)
            action = Action(name="quota.remove", subject=str(quota_id), before=_described(found[0]))
            await _record(connection, sender, action)

    @asynccontextmanager
    async def _changing(self, tenant: TenantId) -> AsyncIterator[asyncpg.Connection]:
        """Open a transaction that changes a tenant; wake the gateways after its commit."""
        async with self._database.acquire() as connection, connection.transaction():
            generation = await access_store.next_generation(connection)
            await store.stamp(connection, tenant, generation)
            yield connection
        self._wakeups.announce(TOPIC)


async def _record(connection: asyncpg.Connection, sender: Sender, action: Action) -> None:
    await access_store.record(connection, sender.principal.tenant, sender.principal, sender.address, action)


def _described(quota: Quota) -> dict[str, Any]:
    """Return the fields of a quota that the audit log records."""
    return {name: getattr(quota, name) for name in ("measure", "per", "key", "user", "limit", "on_crash", "mode")}
