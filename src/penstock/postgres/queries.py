"""Load named SQL blocks from the ``.sql`` file beside a module.

aiosql reads the file and turns ``:name`` parameters into numbered ones; asyncpg runs the text as a prepared statement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiosql
import asyncpg
from aiosql.adapters.asyncpg import AsyncPGAdapter


class Statement:
    """A named block; its methods take a connection, and the parameters by name."""

    __slots__ = ("_order", "name", "sql")

    def __init__(self, name: str, sql: str, order: list[str]) -> None:
        self.name = name
        self.sql = sql
        self._order = order

    def arguments(self, parameters: dict[str, Any]) -> list[Any]:
        """Return the parameters in the order of the numbers in ``sql``."""
        return [parameters[name] for name in self._order]

    async def rows(self, connection: asyncpg.Connection, **parameters: Any) -> list[asyncpg.Record]:
        return await connection.fetch(self.sql, *self.arguments(parameters))

    async def row(self, connection: asyncpg.Connection, **parameters: Any) -> asyncpg.Record | None:
        return await connection.fetchrow(self.sql, *self.arguments(parameters))

    async def value(self, connection: asyncpg.Connection, **parameters: Any) -> Any:
        return await connection.fetchval(self.sql, *self.arguments(parameters))

    async def run(self, connection: asyncpg.Connection, **parameters: Any) -> None:
        await connection.execute(self.sql, *self.arguments(parameters))


class Queries:
    """The named blocks of one file, available as attributes."""

    def __init__(self, path: Path) -> None:
        adapter = AsyncPGAdapter()  # type: ignore[no-untyped-call]  # aiosql is typed only in part
        parsed = aiosql.from_path(path, lambda: adapter)
        names = [name for name in parsed.available_queries if not name.endswith("_cursor")]
        self.statements = {name: Statement(name, getattr(parsed, name).sql, adapter.var_sorted[name]) for name in names}

    def __getattr__(self, name: str) -> Statement:
        try:
            return self.statements[name]
        except KeyError:
            raise AttributeError(f"there is no SQL block {name!r}") from None


def load(module_file: str, name: str = "queries.sql") -> Queries:
    """Return the blocks of the SQL file beside ``module_file``."""
    return Queries(Path(module_file).with_name(name))
