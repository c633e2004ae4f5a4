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
    manifest: bytes | None  # JSON; None: that of the operator's folder
    removed: bool


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
        )
        for row in await _sql.read_all.rows(connection)
    ]


async def put(connection: asyncpg.Connection, tenant: int | None, row: Row) -> None:
    """Store a row of a tenant, or of the operator (None), in place of the one before for this version."""
    await _sql.put.run(
        connection,
        tenant_id=tenant,
        name=row.name,
        version=row.version,
        manifest=row.manifest,
        removed=row.removed,
    )
