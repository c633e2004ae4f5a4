"""Fixtures of flows: a database per module, a started service, a tenant per test, and a folder with its process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.process.program import Limits
from penstock.flows.program.folders import FlowFolders
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


Write = Callable[[str, str], None]


class Start(Protocol):
    async def __call__(self, *, limits: Limits | None = None, watched: bool = False) -> FlowProcess: ...


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file into the folder of flows or, with ``../apps/``, into that of apps."""

    def written(file: str, text: str) -> None:
        path = tmp_path / file.removeprefix("../") if file.startswith("../") else tmp_path / "flows" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    return written


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that starts the process for the folder."""
    async with AsyncExitStack() as stack:

        async def started(*, limits: Limits | None = None, watched: bool = False) -> FlowProcess:
            process = FlowProcess(
                FlowFolders(flows=tmp_path / "flows", apps=tmp_path / "apps"),
                ours={**os.environ, "DATABASE_URL": "secret", "MY_TOKEN": "for the flows"},
                private=frozenset({"DATABASE_URL"}),
                watched=watched,
                limits=limits,
            )
            stack.push_async_callback(process.stop)
            await process.start()
            return process

        yield started
