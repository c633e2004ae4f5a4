"""A gateway is not ready, and reports why, if its database has the wrong schema, is read-only or is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from penstock.postgres.embedded import EmbeddedServer, embedded_url
from penstock.postgres.migrate import migrate
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway

NEEDS_DATABASE = (
    ("GET", "/readyz", None),
    ("GET", "/jobs", None),
    ("GET", "/stats", None),
    ("POST", "/jobs", SUBMISSION),
    ("POST", "/jobs/batch", {"jobs": [SUBMISSION]}),
    ("POST", "/jobs/claim", {"worker_id": "w"}),
    ("POST", "/jobs/cancel", {"task_type": "x"}),
)


@asynccontextmanager
async def database_of(server: EmbeddedServer, name: str, options: str = "") -> AsyncIterator[str]:
    """Create a database, return its URL, and drop it at the end."""
    admin = await asyncpg.connect(embedded_url(server.data_dir, "postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield embedded_url(server.data_dir, name)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url, server_settings={"search_path": "penstock"})
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def assert_refused(caller: HttpCaller, words: str) -> None:
    """Check that routes that need the database return 503 and say what to do."""
    for method, path, body in NEEDS_DATABASE:
        reply = await caller.call(method, path, body)
        assert reply.outcome == (503, "schema_mismatch"), path
        assert words in reply.json["detail"]
        assert int(reply.headers["retry-after"]) >= 1


async def assert_works(caller: HttpCaller) -> None:
    assert (await caller.get("/readyz")).status == 200
    assert (await caller.post("/jobs", SUBMISSION)).status == 201


async def test_a_gateway_without_a_schema_names_the_command_and_recovers_by_itself(
    postgres_server: EmbeddedServer,
) -> None:
    async with database_of(postgres_server, "without_schema") as url, running_gateway(url) as caller:
        await assert_refused(caller, "penstock db migrate")
        await migrate(url)
        await assert_works(caller)


@pytest.mark.parametrize(("version", "words"), [("0001_jobs", "Run `penstock db migrate`"), ("9999_x", "Upgrade")])
async def test_an_older_or_newer_schema_is_refused_even_while_it_runs(
    database_url: str, version: str, words: str
) -> None:
    async with running_gateway(database_url) as caller:
        await assert_works(caller)
        await execute(
            database_url,
            "CREATE TABLE version_before AS SELECT * FROM alembic_version;"
            f"UPDATE alembic_version SET version_num = '{version}'",
        )
        await assert_refused(caller, words)
        await execute(database_url, "UPDATE alembic_version v SET version_num = b.version_num FROM version_before b")
        await assert_works(caller)


async def test_a_database_that_is_read_only_is_not_ready(database_url: str) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with running_gateway(database_url) as caller:
        reply = await caller.get("/readyz")
        assert reply.outcome == (503, "database_unavailable")
        assert "read-only" in reply.json["detail"]
        assert (await caller.post("/jobs", SUBMISSION)).outcome == (503, "database_unavailable")


async def assert_full(caller: HttpCaller) -> None:
    """Check that the first write finds the disk full and that the gateway is not ready from then on."""
    reply = await caller.post("/jobs", SUBMISSION | {"input": os.urandom(200_000).hex()})
    assert reply.outcome == (503, "database_unavailable")
    for _ in range(2):
        ready = await caller.get("/readyz")
        assert (ready.outcome, "no space left" in ready.json["detail"]) == ((503, "database_unavailable"), True)
    assert (await caller.get("/jobs")).status == 200  # reads still work


async def test_a_server_that_reports_a_full_disk_makes_it_not_ready(database_url: str) -> None:
    async with running_gateway(database_url) as caller:
        await assert_works(caller)
        await execute(
            database_url,
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER full_disk BEFORE INSERT ON ready EXECUTE FUNCTION full_disk();"
            "CREATE TRIGGER full_disk BEFORE INSERT ON write_probe EXECUTE FUNCTION full_disk()",
        )
        await assert_full(caller)
        await execute(database_url, "DROP TRIGGER full_disk ON ready; DROP TRIGGER full_disk ON write_probe")
        await assert_works(caller)


@pytest.fixture
def small_disk(postgres_server: EmbeddedServer) -> Iterator[Path]:
    """A disk of 48 MB that the server may write to."""
    disk = postgres_server.data_dir / "small-disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only an administrator can mount a small disk; the test above covers what the server reports")
    try:
        owner = (postgres_server.data_dir / "postgres").stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until there is no space left on the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free < 4096
    return filler


async def test_a_disk_that_is_actually_full_makes_it_not_ready(
    postgres_server: EmbeddedServer, small_disk: Path
) -> None:
    admin = await asyncpg.connect(embedded_url(postgres_server.data_dir, "postgres"))
    space = small_disk / "space"
    space.mkdir()
    owner = small_disk.stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    try:
        await admin.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        options = "TEMPLATE penstock TABLESPACE small"
        async with database_of(postgres_server, "on_small_disk", options) as url, running_gateway(url) as caller:
            await assert_works(caller)
            filler = fill(small_disk)
            await assert_full(caller)
            filler.unlink()
            await assert_works(caller)
        await admin.execute("DROP TABLESPACE small")
    finally:
        await admin.close()
