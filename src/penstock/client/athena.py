"""The calls about the credentials of Athena's clients."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from penstock.client.transport import Transport

_KEYS: Final = "/api/v1/athena/keys"


class AthenaCalls:
    """The part of ``Client`` about Athena's credentials. All are the JSON that the description of the API explains."""

    _transport: Transport

    async def create_athena_key(
        self,
        name: str,
        app_id: str,
        *,
        services: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> dict[str, Any]:
        """Create a key with credentials. ``api_secret`` and ``key`` are returned only here."""
        body = {
            "name": name,
            "app_id": app_id,
            "services": None if services is None else list(services),
            "expires_at": msgspec.to_builtins(expires_at),
        }
        return await self._transport.call("POST", _KEYS, dict[str, Any], body=body, repeatable=False)

    async def athena_keys(self) -> list[dict[str, Any]]:
        """Return the tenant's credentials without their secrets, the oldest first."""
        found = await self._transport.call("GET", _KEYS, dict[str, Any])
        keys: list[dict[str, Any]] = found["keys"]
        return keys

    async def revoke_athena_key(self, key_id: str) -> dict[str, Any]:
        """Revoke a key with its credentials; their open requests end within two seconds."""
        return await self._transport.call("POST", f"{_KEYS}/{quote(key_id, safe='')}/revoke", dict[str, Any])
