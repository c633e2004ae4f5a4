"""Read the ledger: the typed functions of ``reading.sql``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import asyncpg

from penstock.postgres import queries
from penstock.tenants.principal import TenantId
from penstock.usage.periods import Bucket

Connection = asyncpg.Connection

_OF_SUBMITTERS: Final = frozenset({"key", "user"})

_sql = queries.load(__file__, "reading.sql")


async def tenants(connection: Connection) -> list[TenantId]:
    """Return all tenants."""
    return [TenantId(row["id"]) for row in await _sql.tenants.rows(connection)]


async def by_quarters(connection: Connection, tenants: Sequence[TenantId]) -> bool:
    """Return whether the usage of all of these tenants is summed up by quarters of hours."""
    found: bool = await _sql.by_quarters.value(connection, tenant_ids=tenants)
    return found


async def report(
    connection: Connection,
    tenants: Sequence[TenantId],
    *,
    buckets: Sequence[Bucket],
    by: Collection[str],
    filters: Mapping[str, list[str] | None],
    limit: int,
) -> tuple[list[asyncpg.Record], asyncpg.Record]:
    """Return at most ``limit`` groups, with the number of each one's bucket, and the sums of all groups.

    ``filters`` has the allowed values of every dimension, or None where all are.
    """
    ranges = [(number, part) for number, bucket in enumerate(buckets) for part in bucket.ranges]
    *rows, total = await _sql.report.rows(
        connection,
        tenant_ids=list(tenants),
        broad=not (_OF_SUBMITTERS & {*by, *(name for name, values in filters.items() if values is not None)}),
        by=list(by),
        **{f"{name}s": values for name, values in filters.items()},
        buckets=[number for number, _ in ranges],
        units=[part.unit for _, part in ranges],
        lows=[part.low for _, part in ranges],
        highs=[part.high for _, part in ranges],
        limit=limit,
    )
    return rows, total
