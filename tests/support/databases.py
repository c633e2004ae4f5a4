"""Databases for tests: opening one, and reading and changing its rows directly."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.jobs.sql.rows import Connection
from penstock.postgres.embedded import EmbeddedServer, embedded_url
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support import in_memory

_numbers = itertools.count(1)


STATE_TABLES = ("ready", "later", "lease", "done")


@asynccontextmanager
async def own_database(server: EmbeddedServer) -> AsyncIterator[str]:
    """Yield the URL of a fresh database with the newest schema; dropped at the end, with its connections."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    # Copying files waits for the disk, and the log does not; in memory, files are six times as fast.
    strategy = "file_copy" if in_memory.is_inside(server.data_dir) else "wal_log"
    admin = await asyncpg.connect(embedded_url(server.data_dir, "postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE penstock STRATEGY {strategy}")
        yield embedded_url(server.data_dir, name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@asynccontextmanager
async def open_database(
    url: str, *, max_size: int = 8, application_name: str = "penstock-test"
) -> AsyncIterator[Database]:
    """Open a pool with the settings of a Penstock process."""
    database = Database(url, application_name=application_name, max_size=max_size)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def own_tenant(database: Database) -> TenantId:
    """Create a tenant that only the caller uses."""
    async with database.acquire() as connection:
        return TenantId(
            await connection.fetchval(
                "INSERT INTO tenant (id, name) SELECT max(id) + 1, 'tenant ' || max(id) + 1 FROM tenant RETURNING id"
            )
        )


async def fetch(connection: Connection, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a statement as plain tuples, JSON as text."""
    rows = await connection.fetch(sql, *arguments)
    return [tuple(bytes(value).decode() if isinstance(value, Raw) else value for value in row) for row in rows]


async def query(database: Database, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a test's own statement, planned without the planner settings of our sessions."""
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on")
        return await fetch(connection, sql, *arguments)


async def execute(database: Database, sql: str, *arguments: Any) -> None:
    """Execute a test's own statement and discard its rows."""
    async with database.acquire() as connection:
        await connection.execute(sql, *arguments)


async def tables_holding(database: Database, job_id: UUID) -> list[str]:
    """Return which of the four tables of states hold the job; it should be exactly one."""
    sql = " UNION ALL ".join(f"SELECT '{place}' FROM {place} WHERE job_id = $1" for place in STATE_TABLES)
    return [place for (place,) in await query(database, sql, job_id)]


async def snapshot(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows about jobs, to compare them before and after."""
    counters = ("stat", "stat_delta", "usage_delta", "usage_sum", "usage_detail")
    tables = ("job", *STATE_TABLES, "attempt", "event", "idempotency", *counters)
    return {table: await query(database, f"SELECT * FROM {table} t ORDER BY t::text") for table in tables}
