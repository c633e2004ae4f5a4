"""The table of models that were registered or removed over HTTP. Every function takes the connection first and the
tenant second; none opens a transaction."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from penstock.postgres import queries

_sql = queries.load(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The last registration or removal of one version."""

    name: str
    version: str
    manifest: bytes | None  # JSON; None: that of the operator's folder
    removed: bool


async def position(connection: asyncpg.Connection, tenant: int) -> int:
    """Return a number that grows with every change."""
    found: int = await _sql.position.value(connection, tenant_id=tenant)
    return found


async def read_all(connection: asyncpg.Connection, tenant: int) -> list[Row]:
    """Return all rows, the oldest change first."""
    return [
        Row(
            name=row["name"],
            version=row["version"],
            manifest=None if row["manifest"] is None else bytes(row["manifest"]),
            removed=row["removed"],
        )
        for row in await _sql.read_all.rows(connection, tenant_id=tenant)
    ]


async def put(connection: asyncpg.Connection, tenant: int, row: Row) -> None:
    """Store a row, in place of the one before for this version."""
    await _sql.put.run(
        connection,
        tenant_id=tenant,
        name=row.name,
        version=row.version,
        manifest=row.manifest,
        removed=row.removed,
    )
