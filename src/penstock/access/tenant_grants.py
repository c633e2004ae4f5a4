"""The suspension of tenants, for requests of others on their behalf: tickets that operators have issued for them."""

from __future__ import annotations

from typing import Final

import asyncpg

from penstock.access import store
from penstock.tenants.principal import OPERATOR, Grant

SUSPENDED: Final = "this tenant is suspended"
_MAX: Final = 10_000  # tenants whose grants are kept without being watched


class TenantGrants:
    """A grant for each tenant, which ends when the tenant is suspended. ``KeyWatch`` keeps them up to date."""

    def __init__(self) -> None:
        self._of: dict[str, Grant] = {}

    def of(self, name: str) -> Grant:
        """Return the grant of a tenant that is known to be active."""
        grant = self._of.get(name)
        if grant is None or grant.principal is None:
            if len(self._of) >= _MAX:
                self._of = {known: kept for known, kept in self._of.items() if kept.watched}
            grant = self._of[name] = Grant()
            grant.replace(OPERATOR)
        return grant

    @property
    def known(self) -> bool:
        """Whether there is any grant."""
        return bool(self._of)

    async def refresh(self, connection: asyncpg.Connection) -> None:
        """End the requests on behalf of tenants that have been suspended or deleted."""
        known = list(self._of)
        active = await store.active_tenants(connection, known)
        for name in known:
            if name not in active and name in self._of:
                self._of.pop(name).replace(None, SUSPENDED)
