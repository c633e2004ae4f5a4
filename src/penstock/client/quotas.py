"""The calls of ``Client`` about quotas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from penstock.client.transport import Query, Transport
from penstock.client.views import as_id
from penstock.quotas.quota import Measure, Mode, OnCrash, Per, Quota, QuotaList, QuotaSetting

_QUOTAS: Final = "/api/v1/quotas"


class QuotaCalls:
    """Reads quotas and, for operators, sets them."""

    _transport: Transport

    async def quotas(self, *, user: str | None = None) -> Sequence[Quota]:
        """Return the tenant's quotas with their use; for quotas of every user, the use of ``user``."""
        query: Query = {} if user is None else {"user": user}
        return (await self._transport.call("GET", _QUOTAS, QuotaList, query=query)).quotas

    async def set_quota(
        self,
        measure: Measure,
        limit: int,
        *,
        per: Per | None = None,
        key: str | None = None,
        user: str | None = None,
        on_crash: OnCrash | None = None,
        mode: Mode | None = None,
    ) -> Quota:
        """Set a quota of a tenant, of one of its keys (``key`` is its id), of a user, or of every user (``"*"``)."""
        setting = QuotaSetting(measure=measure, limit=limit, per=per, key=key, user=user, on_crash=on_crash, mode=mode)
        return await self._transport.call("PUT", _QUOTAS, Quota, body=msgspec.to_builtins(setting))

    async def remove_quota(self, quota_id: UUID | str) -> None:
        """Remove a quota, with all that was counted for it. Raises NotFound."""
        await self._transport.call("DELETE", f"{_QUOTAS}/{as_id(quota_id)}", type(None))
