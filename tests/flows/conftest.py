"""Fixtures of flows: a database per module, a started service, and a tenant per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import open_database, own_tenant
from tests.support.jobs import JobCaller, job_service


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    """Connections to the database that the tests of one module share."""
    async with open_database(module_database_url, max_size=12) as database:
        yield database


@pytest.fixture
async def service(database: Database) -> AsyncIterator[JobService]:
    """A started service on the module's database."""
    async with job_service(database) as service:
        yield service


@pytest.fixture
async def caller(service: JobService, database: Database) -> JobCaller:
    """Calls in the name of this test's own tenant."""
    return JobCaller(service, await own_tenant(database))


@pytest.fixture
async def clock(database: Database) -> AsyncIterator[Clock]:
    """The clock of the module's database, reset after the test."""
    clock = Clock(database)
    yield clock
    await clock.reset()
