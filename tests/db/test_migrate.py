"""Migrations, on real databases."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from penstock.errors import CannotStart, DatabaseUnavailable
from penstock.postgres.embedded import EmbeddedServer, embedded_url
from penstock.postgres.migrate import check, is_current, migrate
from penstock.postgres.schema import VERSIONS, versions


async def test_several_replicas_may_migrate_an_empty_database_at_once(postgres_server: EmbeddedServer) -> None:
    admin = await asyncpg.connect(embedded_url(postgres_server.data_dir, "postgres"))
    try:
        await admin.execute("CREATE DATABASE together")
        url = embedded_url(postgres_server.data_dir, "together")
        await asyncio.gather(*(migrate(url) for _ in range(4)))
        connection = await asyncpg.connect(url)
        try:
            assert await is_current(connection)
            assert await connection.fetchval("SELECT count(*) FROM penstock.alembic_version") == 1
        finally:
            await connection.close()
    finally:
        await admin.execute("DROP DATABASE IF EXISTS together WITH (FORCE)")
        await admin.close()


async def test_a_failed_migration_leaves_nothing_behind(postgres_server: EmbeddedServer) -> None:
    admin = await asyncpg.connect(embedded_url(postgres_server.data_dir, "postgres"))
    try:
        await admin.execute("CREATE DATABASE torn")
        url = embedded_url(postgres_server.data_dir, "torn")
        connection = await asyncpg.connect(url)
        try:
            # One of our tables exists already, so the script fails in the middle.
            await connection.execute("CREATE SCHEMA penstock; CREATE TABLE penstock.done (id int)")
            with pytest.raises(asyncpg.DuplicateTableError):
                await migrate(url)
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'penstock'")
            assert [row["tablename"] for row in tables] == ["done"]
        finally:
            await connection.close()
    finally:
        await admin.execute("DROP DATABASE IF EXISTS torn WITH (FORCE)")
        await admin.close()


async def test_migrating_again_changes_nothing(database_url: str) -> None:
    await migrate(database_url)
    await check(database_url)


async def test_a_database_that_is_newer_than_the_code_is_refused(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("UPDATE penstock.alembic_version SET version_num = '9999_future'")
    finally:
        await connection.close()
    with pytest.raises(CannotStart, match="newer than this Penstock"):
        await migrate(database_url)


async def test_a_process_that_may_not_migrate_reports_that_the_schema_is_old(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("DELETE FROM penstock.alembic_version")
    finally:
        await connection.close()
    with pytest.raises(CannotStart, match="penstock db migrate"):
        await check(database_url)


async def test_an_unavailable_database_is_retried_for_a_while(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DatabaseUnavailable):
        await migrate(embedded_url(tmp_path), timeout=timedelta(seconds=0.3))
    assert 0.1 < loop.time() - began < 3


async def test_an_unknown_database_is_a_mistake_in_the_url(postgres_server: EmbeddedServer) -> None:
    with pytest.raises(CannotStart, match="DATABASE_URL"):
        await migrate(embedded_url(postgres_server.data_dir, "nowhere"), timeout=timedelta(seconds=30))


def test_migrations_use_nothing_that_postgresql_15_lacks() -> None:
    """The embedded server is newer, so it accepts newer syntax: the list holds what was used by mistake so far."""
    newer = {
        "STORAGE in a column's definition (16)": r"(?<!SET )\bSTORAGE (PLAIN|EXTERNAL|EXTENDED|MAIN)\b",
        "any_value (16)": r"\bany_value\(",
        "JSON_TABLE, JSON_QUERY, JSON_VALUE (17)": r"\bJSON_(TABLE|QUERY|VALUE|EXISTS)\b",
        "uuidv7 (18)": r"\buuidv[47]\(",
        "virtual generated columns (18)": r"\bVIRTUAL\b",
    }
    files = [*VERSIONS.glob("*.sql"), *VERSIONS.parents[2].rglob("*.sql")]
    assert len(files) > 10
    found = [
        (file.name, name)
        for file in files
        for name, use in newer.items()
        if re.search(use, file.read_text(), re.IGNORECASE)
    ]
    assert found == []


def test_every_migration_has_its_sql_and_a_name_that_fits() -> None:
    import penstock.postgres.migrations as package

    folder = Path(next(iter(package.__path__))) / "versions"
    assert versions()
    for version in versions():
        assert (folder / f"{version}.sql").is_file()
        assert len(version) <= 32, "alembic_version.version_num holds 32 characters"
