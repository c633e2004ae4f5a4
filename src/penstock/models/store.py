"""The table of models that were registered or removed over HTTP.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from penstock.postgres import queries

_sql = queries.load(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The last registration or removal of one version."""

    owner: str | None = None  # the name of the tenant that registered it; None: the operator
    name: str
    version: str
    manifest: bytes | None  # JSON; None: use the manifest in the operator's folder, or ``sealed``
    removed: bool
    secret: bool = False  # whether the manifest holds secrets, and is stored encrypted
    sealed: bytes | None = None
    secret_id: str | None = None

    @property
    def place(self) -> str:
        """The place to which a sealed manifest is bound, so that no other row can use it. No tenant is named ``*``."""
        return f"model:{self.owner or '*'}/{self.name}/{self.version}"


async def position(connection: asyncpg.Connection) -> int:
    """Return a number that grows with every change."""
    found: int = await _sql.position.value(connection)
    return found


async def read_all(connection: asyncpg.Connection) -> list[Row]:
    """Return all rows, the oldest change first."""
    return [
        Row(
            owner=row["owner"],
            name=row["name"],
            version=row["version"],
            manifest=None if row["manifest"] is None else bytes(row["manifest"]),
            removed=row["removed"],
            secret=row["sealed"] is not None,
            sealed=row["sealed"],
            secret_id=row["secret_id"],
        )
        for row in await _sql.read_all.rows(connection)
    ]


async def put(connection: asyncpg.Connection, tenant: int, row: Row) -> None:
    """Store a row of a tenant, or of the operator, in place of the previous one for this version."""
    await _sql.put.run(
        connection,
        tenant_id=tenant,
        shared=row.owner is None,
        name=row.name,
        version=row.version,
        manifest=row.manifest,
        sealed=row.sealed,
        secret_id=row.secret_id,
        removed=row.removed,
    )


async def sealed_under(connection: asyncpg.Connection, secret_id: str) -> list[tuple[int, Row]]:
    """Return the models whose manifests a secret encrypts, each with its tenant; they stay locked."""
    return [
        (
            row["tenant_id"],
            Row(
                owner=row["owner"],
                name=row["name"],
                version=row["version"],
                manifest=None,
                removed=False,
                secret=True,
                sealed=row["sealed"],
                secret_id=secret_id,
            ),
        )
        for row in await _sql.sealed_under.rows(connection, secret_id=secret_id)
    ]


async def reseal(connection: asyncpg.Connection, tenant: int, row: Row) -> None:
    """Store a manifest that was encrypted with another secret."""
    await _sql.reseal.run(
        connection,
        tenant_id=tenant,
        shared=row.owner is None,
        name=row.name,
        version=row.version,
        sealed=row.sealed,
        secret_id=row.secret_id,
    )
