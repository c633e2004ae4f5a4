"""Fixtures of the database layer's tests: a database per module, a tenant per test, a clock that can be moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.database_proxy import SOCKET, DatabaseProxy
from tests.support.databases import open_database, own_tenant
from tests.support.jobs import JobCaller, job_service


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    """Connections to the database that the tests of one module share."""
    async with open_database(module_database_url) as database:
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
async def far_caller(module_database_url: str, caller: JobCaller) -> AsyncIterator[JobCaller]:
    """Calls of the same tenant through a second service with its own pool, as in another process."""
    async with open_database(module_database_url) as far, job_service(far) as service:
        yield JobCaller(service, caller.tenant)


@pytest.fixture
async def clock(database: Database) -> AsyncIterator[Clock]:
    """The clock of the module's database, reset after the test."""
    clock = Clock(database)
    yield clock
    await clock.reset()


@pytest.fixture
async def fresh(database_url: str) -> AsyncIterator[Database]:
    """Connections to a database that only this test uses."""
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
async def line(fresh: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DatabaseProxy]:
    """An open line to this test's own database."""
    (host,) = parse_qs(urlsplit(fresh.url).query)["host"]
    line = DatabaseProxy(tmp_path_factory.mktemp("line"), f"{host}/{SOCKET}")
    await line.mend()
    yield line
    await line.cut()


@pytest.fixture
async def alone(fresh: Database) -> AsyncIterator[JobCaller]:
    """The only caller of a database that only this test uses."""
    async with job_service(fresh) as service:
        yield JobCaller(service, await own_tenant(fresh))


@pytest.fixture
async def fresh_clock(fresh: Database) -> Clock:
    """The clock of this test's own database."""
    return Clock(fresh)
