"""Fixtures of collections: databases with and without pgvector, a service and a tenant per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock.collections.service import CollectionService
from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.collections import collection_service
from tests.support.databases import execute, open_database, own_database, own_tenant


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    """Connections to the database that the tests of one module share, with pgvector."""
    async with open_database(module_database_url) as database:
        yield database


@pytest.fixture(scope="module")
async def plain_database(postgres_server: EmbeddedServer) -> AsyncIterator[Database]:
    """Connections to a database without pgvector."""
    async with own_database(postgres_server) as url, open_database(url) as database:
        await execute(database, "DROP EXTENSION vector")
        yield database


@pytest.fixture
def service(database: Database) -> CollectionService:
    return collection_service(database)


@pytest.fixture
async def tenant(database: Database) -> TenantId:
    """The tenant that owns what a test creates."""
    return await own_tenant(database)


@pytest.fixture(params=["pgvector", "plain"])
async def anywhere(
    request: pytest.FixtureRequest, database: Database, plain_database: Database
) -> tuple[CollectionService, TenantId]:
    """A service and a tenant, on a server with pgvector and on one without."""
    chosen = database if request.param == "pgvector" else plain_database
    return collection_service(chosen), await own_tenant(chosen)


@pytest.fixture
async def fresh_database(database_url: str) -> AsyncIterator[Database]:
    """Connections to a database that only this test uses, with pgvector."""
    async with open_database(database_url) as database:
        yield database
