"""Fixtures of apps: a gateway on a database per module, a folder of apps, and a worker that runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from penstock.flows.program.folders import FlowFolders
from penstock.jobs.service import JobService
from penstock.masking import Secret
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import open_database
from tests.support.flow_runners import Running, running
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.jobs import job_service

HELLO = '''
from penstock.flows import flow, run

@flow(name="hello", version="1", examples=[{"name": "Ada"}])
async def hello(name: str, seconds: float = 1.5) -> dict:
    """Greets."""
    text = await run.call("echo", {"text": f"Hello, {name}!"})
    return {"greeting": text["text"], "usage": {"seconds": seconds}}
'''

Write = Callable[[str, str], None]
Work = Callable[[], AbstractAsyncContextManager[Running]]


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
async def clock(database: Database) -> AsyncIterator[Clock]:
    """The clock of the module's database, reset after the test."""
    clock = Clock(database)
    yield clock
    await clock.reset()


@pytest.fixture(scope="module")
async def gateway(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """A gateway without a folder of apps."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file into the folder of apps."""

    def written(file: str, text: str) -> None:
        path = tmp_path / "apps" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    return written


@pytest.fixture
def work(service: JobService, database: Database, tmp_path: Path) -> Work:
    """Return a function that runs a worker with the apps of the folder."""
    return lambda: running(service, database, FlowFolders(apps=tmp_path / "apps"), linger=0.1)
