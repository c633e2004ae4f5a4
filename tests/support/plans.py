"""How much of the database a statement reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from penstock.postgres.pool import Database
from penstock.postgres.queries import Statement
from tests.support.databases import execute, open_database


@asynccontextmanager
async def filled_database(url: str, fill: str) -> AsyncIterator[Database]:
    """Yield a database after ``fill``, a script that may take minutes, with statistics for the planner."""
    async with open_database(url) as database:
        async with database.acquire() as connection:
            await connection.execute("SET statement_timeout = '120s'")
            await connection.execute(fill)
            await connection.execute("RESET statement_timeout")
        await execute(database, "ANALYZE")
        yield database


async def pages_read(database: Database, statement: Statement, parameters: dict[str, Any]) -> int:
    """Run a statement, undo what it did, and return how many pages it read."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}"
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            (row,) = await connection.fetch(explain, *statement.arguments(parameters))
        finally:
            await transaction.rollback()
    plan = json.loads(bytes(row[0]))[0]["Plan"]
    pages: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return pages
