"""The statements on credentials."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from penstock.athena.credentials.credential import AthenaKey, StoredCredential
from penstock.postgres import queries

_sql = queries.load(__file__)


async def create(connection: asyncpg.Connection, tenant: int, new: StoredCredential) -> None:
    """Add credentials to a key that the same transaction creates."""
    await _sql.create.run(
        connection,
        tenant_id=tenant,
        key_id=new.key_id,
        api_key=new.api_key,
        app_id=new.app_id,
        sealed=new.sealed,
        secret_id=new.secret_id,
    )


async def of_tenant(connection: asyncpg.Connection, tenant: int) -> list[AthenaKey]:
    return [AthenaKey(**row) for row in await _sql.of_tenant.rows(connection, tenant_id=tenant)]


async def one(connection: asyncpg.Connection, tenant: int, key_id: str) -> AthenaKey | None:
    row = await _sql.one.row(connection, tenant_id=tenant, key_id=key_id)
    return None if row is None else AthenaKey(**row)


async def by_api_key(connection: asyncpg.Connection, api_keys: Sequence[str]) -> dict[str, StoredCredential]:
    """Return the credentials that exist, by their API keys."""
    rows = await _sql.by_api_key.rows(connection, api_keys=list(api_keys))
    return {row["api_key"]: StoredCredential(**row) for row in rows}


async def sealed_under(connection: asyncpg.Connection, secret_id: str) -> list[StoredCredential]:
    """Return the credentials whose secrets a secret of the installation encrypts; they stay locked."""
    return [StoredCredential(**row) for row in await _sql.sealed_under.rows(connection, secret_id=secret_id)]


async def reseal(connection: asyncpg.Connection, key_id: str, sealed: bytes, *, secret_id: str) -> None:
    await _sql.reseal.run(connection, key_id=key_id, sealed=sealed, secret_id=secret_id)
