"""How workers publish their apps: beside each other, and after errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from penstock.apps import catalogue
from penstock.apps.catalogue import AppProblem, Published
from penstock.apps.folder import AppsFolder
from penstock.apps.manifest import AppManifest
from penstock.apps.publishing import AppPublishing
from penstock.postgres.pool import Database
from tests.apps.conftest import Write
from tests.support.databases import query
from tests.support.waiting import until


async def test_workers_that_publish_at_once_do_not_deadlock(database: Database, tmp_path: Path, write: Write) -> None:
    write("a/app.toml", "")
    write("b/app.toml", "")
    folder = AppsFolder(tmp_path / "apps")
    folder.scan()
    publishing = AppPublishing(database, folder, dict)
    broken = Published(name="a", version="", manifest=None, problems=[AppProblem(file="a/app.toml", detail="broken")])
    valid = Published(name="b", version="1", manifest=AppManifest(name="b"))
    async with database.acquire() as other:
        await catalogue.publish(other, [broken])
        async with other.transaction():  # a statement that stores both takes the same locks, one after the other
            await catalogue.publish(other, [broken])
            once = asyncio.create_task(publishing.once())
            await until(lambda: _waits(database), "it waits for the row of the broken app")
            await catalogue.publish(other, [valid])
        await once
        assert [(app.name, app.version) for app in await catalogue.every(other)] == [("a", "1"), ("b", "1")]


async def _waits(database: Database) -> bool:
    rows = await query(
        database,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    return bool(rows[0][0] == 1)


async def test_apps_are_published_again_after_any_error(database: Database, tmp_path: Path, write: Write) -> None:
    write("late/app.toml", "")
    errors = [RuntimeError("the loader of flows has a bug")]

    def problems() -> Mapping[str, str]:
        if errors:
            raise errors.pop()
        return {}

    publishing = AppPublishing(database, AppsFolder(tmp_path / "apps"), problems)
    await publishing.start()
    try:
        await until(lambda: _is_known(database), "the app is published")
    finally:
        await publishing.stop()


async def _is_known(database: Database) -> bool:
    async with database.acquire() as connection:
        return await catalogue.find(connection, "late") is not None
