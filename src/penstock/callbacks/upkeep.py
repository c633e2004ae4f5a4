"""What ends and deletes old deliveries and endpoints: typed functions for ``upkeep.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from penstock.callbacks.deliveries import EndpointKey
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection

_sql = queries.load(__file__, "upkeep.sql")


async def give_up(connection: Connection, *, max_age: timedelta, limit: int) -> int:
    """End deliveries that have waited too long; returns how many."""
    number: int = await _sql.give_up.value(connection, max_age_seconds=max_age.total_seconds(), limit=limit)
    return number


async def drop_ended(connection: Connection, *, status: str, keep: timedelta, limit: int) -> int:
    """Delete deliveries that ended long ago; returns how many."""
    number: int = await _sql.drop_ended.value(connection, status=status, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def drop_jobs(connection: Connection, *, keep: timedelta, limit: int) -> int:
    """Delete the callbacks of jobs that retention has dropped; returns how many."""
    number: int = await _sql.drop_jobs.value(connection, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def drop_unused(connection: Connection, *, keep: timedelta, limit: int) -> int:
    """Delete endpoints that no submission has named for long; returns how many."""
    number: int = await _sql.drop_unused.value(connection, keep_seconds=keep.total_seconds(), limit=limit)
    return number


async def removed(connection: Connection, *, limit: int) -> list[EndpointKey]:
    """Return endpoints that were removed."""
    return [(TenantId(row["tenant_id"]), row["id"]) for row in await _sql.removed.rows(connection, limit=limit)]


async def drop_deliveries(connection: Connection, endpoint: EndpointKey, *, limit: int) -> int:
    """Delete deliveries of an endpoint that was removed; returns how many."""
    number: int = await _sql.drop_deliveries.value(
        connection, tenant_id=endpoint[0], endpoint_id=endpoint[1], limit=limit
    )
    return number


async def drop_endpoint(connection: Connection, endpoint: EndpointKey) -> None:
    """Delete an endpoint that was removed and has no deliveries."""
    await _sql.drop_endpoint.run(connection, tenant_id=endpoint[0], endpoint_id=endpoint[1])
