"""Fixtures of slices: a database per module, a tenant per test, and a clock that can be moved."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.clocks import Clock
from tests.support.databases import open_database, own_tenant


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    """Connections to the database that the tests of one module share."""
    async with open_database(module_database_url) as database:
        yield database


@pytest.fixture
async def owner(database: Database) -> TenantId:
    """The tenant whose quotas a test sets."""
    return await own_tenant(database)


@pytest.fixture
async def clock(database: Database) -> AsyncIterator[Clock]:
    """The clock of the module's database, reset after the test."""
    clock = Clock(database)
    yield clock
    await clock.reset()
