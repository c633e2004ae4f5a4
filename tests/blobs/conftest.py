"""Fixtures of the tests of blobs: a server of S3, and every store of objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from penstock.blobs.objects.contract import ObjectStore
from penstock.blobs.objects.opening import open_store
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import open_database, own_tenant
from tests.support.gateways import settings_for
from tests.support.s3 import S3Server, s3_server, s3_settings

_numbers = count(1)


@pytest.fixture(scope="session")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """A server of S3 that all tests of this process share; each makes buckets of its own."""
    async with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def bucket(s3: S3Server) -> str:
    """The name of a bucket of this test's own."""
    name = f"bucket-{next(_numbers)}"
    await s3.bucket(name)
    return name


@pytest.fixture(params=["folder", "s3"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, bucket: str) -> dict[str, Any]:
    """The settings of each kind of store outside of PostgreSQL, in turn."""
    if request.param == "folder":
        return {"penstock_blob_url": (tmp_path / "blobs").as_uri()}
    return {"penstock_blob_url": f"s3://{bucket}/some/prefix", **s3_settings(s3.address)}


@pytest.fixture
async def fresh(database_url: str) -> AsyncIterator[Database]:
    """Connections to a database that only this test uses."""
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
async def fresh_clock(fresh: Database) -> Clock:
    """The clock of that database."""
    return Clock(fresh)


@pytest.fixture
async def tenant(fresh: Database) -> int:
    return await own_tenant(fresh)


@pytest.fixture
async def objects(store_settings: dict[str, Any], fresh: Database) -> ObjectStore:
    """A store with its mark."""
    settings = settings_for(fresh.url, **store_settings)
    found = open_store(settings.penstock_blob_url, settings, fresh)
    await found.write_mark(b"some id")
    return found
