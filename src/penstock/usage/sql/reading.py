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
    hours = [(number, *pair) for number, bucket in enumerate(buckets) for pair in bucket.hours]
    days = [(number, *pair) for number, bucket in enumerate(buckets) for pair in bucket.days]
    months = [(number, *pair) for number, bucket in enumerate(buckets) for pair in bucket.months]
    *rows, total = await _sql.report.rows(
        connection,
        tenant_ids=list(tenants),
        broad=not (_OF_SUBMITTERS & {*by, *(name for name, values in filters.items() if values is not None)}),
        by=list(by),
        **{f"{name}s": values for name, values in filters.items()},
        hour_buckets=[number for number, _, _ in hours],
        hours_from=[low for _, low, _ in hours],
        hours_to=[high for _, _, high in hours],
        day_buckets=[number for number, _, _ in days],
        days_from=[low for _, low, _ in days],
        days_to=[high for _, _, high in days],
        month_buckets=[number for number, _, _ in months],
        months_from=[low for _, low, _ in months],
        months_to=[high for _, _, high in months],
        limit=limit,
    )
    return rows, total
