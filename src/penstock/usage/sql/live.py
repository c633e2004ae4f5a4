"""Write the usage of live calls: the typed functions of ``live.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from penstock.postgres import queries
from penstock.tenants.principal import TenantId
from penstock.usage.calls import Amounts, Dims
from penstock.usage.prices import Price

Connection = asyncpg.Connection
Submitter = tuple[TenantId, str, str]  # tenant, key, user

_sql = queries.load(__file__, "live.sql")


async def resolve_submitters(connection: Connection, wanted: Sequence[Submitter]) -> dict[Submitter, int]:
    """Return the ids of submitters, and create those that are missing."""
    found: dict[Submitter, int] = {}
    while missing := sorted(set(wanted) - found.keys()):
        tenants, keys, users = zip(*missing, strict=True)
        rows = await _sql.resolve_submitters.rows(connection, tenant_ids=tenants, key_ids=keys, user_ids=users)
        found |= {(TenantId(row["tenant_id"]), row["key_id"], row["user_id"]): row["id"] for row in rows}
    return found


async def flush(
    connection: Connection,
    source: UUID,
    number: int,
    rows: Sequence[tuple[Dims, float, Amounts]],
    submitters: dict[Submitter, int],
) -> tuple[bool, float]:
    """Write rows (dimensions, age in seconds, amounts) as the source's flush of this number, unless it was written
    before. Return whether it was written now, and the database's time in seconds since 1970."""
    columns = {name: [getattr(amounts, name) for _, _, amounts in rows] for name in Amounts._fields}
    costs = columns.pop("cost")
    row = await _sql.flush.row(
        connection,
        source=source,
        number=number,
        tenant_ids=[dims.tenant for dims, _, _ in rows],
        ages=[age for _, age, _ in rows],
        submitter_ids=[submitters[dims.tenant, dims.key_id, dims.user_id] for dims, _, _ in rows],
        providers=[dims.provider for dims, _, _ in rows],
        models=[dims.model for dims, _, _ in rows],
        versions=[dims.version for dims, _, _ in rows],
        apps=[dims.app for dims, _, _ in rows],
        prices=[dims.price for dims, _, _ in rows],
        costs=costs,
        **columns,
    )
    assert row is not None  # noqa: S101 - the statement always returns a row
    return row["written"], row["now"]


async def store_prices(connection: Connection, prices: Sequence[Price]) -> None:
    """Store the content of prices by their ids."""
    await _sql.store_prices.run(
        connection, ids=[price.id for price in prices], contents=[price.content for price in prices]
    )
