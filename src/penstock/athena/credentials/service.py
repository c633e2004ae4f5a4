"""The use cases of managing credentials. A key and its credentials are created in one transaction."""

from __future__ import annotations

import secrets
from typing import Final

import asyncpg

from penstock.access.audit import Sender
from penstock.access.key import Key, KeyCreation
from penstock.access.service import AccessService
from penstock.athena.credentials import store
from penstock.athena.credentials.credential import AthenaKey, AthenaKeyCreation, CreatedAthenaKey, StoredCredential
from penstock.athena.credentials.sealing import Sealing, place_of
from penstock.errors import NotFound
from penstock.postgres.pool import Database
from penstock.tenants import scopes
from penstock.tenants.principal import TenantId

_BYTES: Final = 16  # of an API key and of its secret, in hexadecimal digits: 128 bits


class CredentialService:
    """Manages the credentials of tenants, each beside a key of ``access``."""

    def __init__(self, database: Database, access: AccessService, sealing: Sealing) -> None:
        self._database = database
        self._access = access
        self._sealing = sealing

    async def create(self, sender: Sender, creation: AthenaKeyCreation) -> CreatedAthenaKey:
        """Create a key that may call models, with credentials beside it. Their secrets are returned only here.

        Raises the errors of ``AccessService.create_key``.
        """
        api_key, api_secret = secrets.token_hex(_BYTES), secrets.token_hex(_BYTES)
        secret = await self._sealing.secret()

        async def add(connection: asyncpg.Connection, key: Key) -> dict[str, str]:
            sealed = secret.seal(api_secret.encode(), place=place_of(key.id))
            credential = StoredCredential(
                key_id=key.id, api_key=api_key, app_id=creation.app_id, sealed=sealed, secret_id=secret.id
            )
            await store.create(connection, sender.principal.tenant, credential)
            return {"app_id": creation.app_id, "api_key": api_key}

        wanted = KeyCreation(
            name=creation.name,
            scopes=[scopes.MODELS_CALL],
            models=creation.services,
            queues=[],
            apps=[],
            expires_at=creation.expires_at,
        )
        key = await self._access.create_key(sender, wanted, beside=add)
        return CreatedAthenaKey(
            id=key.id,
            name=key.name,
            app_id=creation.app_id,
            api_key=api_key,
            services=key.models,
            created_at=key.created_at,
            expires_at=key.expires_at,
            api_secret=api_secret,
            key=key.key,
        )

    async def keys(self, tenant: TenantId) -> list[AthenaKey]:
        """Return the credentials of a tenant, the oldest first."""
        async with self._database.acquire() as connection:
            return await store.of_tenant(connection, tenant)

    async def key(self, tenant: TenantId, key_id: str) -> AthenaKey:
        """Return the credentials of one key; raises NotFound."""
        async with self._database.acquire() as connection:
            found = await store.one(connection, tenant, key_id)
        if found is None:
            raise NotFound(f"there are no Athena credentials with the id {key_id[:50]}")
        return found

    async def revoke(self, sender: Sender, key_id: str) -> AthenaKey:
        """Revoke a key with its credentials; their open requests end within two seconds."""
        await self.key(sender.principal.tenant, key_id)
        await self._access.revoke_key(sender, key_id)
        return await self.key(sender.principal.tenant, key_id)
