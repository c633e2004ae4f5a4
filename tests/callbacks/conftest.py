"""Fixtures of callbacks: a database of each test's own, with jobs, callbacks, a receiver, and a clock to move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from tests.support.callbacks import Callbacks, Receiver, receiver
from tests.support.clocks import Clock
from tests.support.databases import open_database, own_tenant
from tests.support.jobs import JobCaller
from tests.support.waiting import within


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
async def clock(database: Database) -> Clock:
    return Clock(database)


@pytest.fixture
async def callbacks(database: Database, tmp_path: Path) -> Callbacks:
    return Callbacks(database, tmp_path)


@pytest.fixture
async def caller(database: Database, callbacks: Callbacks) -> AsyncIterator[JobCaller]:
    """Calls in the name of a tenant, whose submissions may name callbacks."""
    service = JobService(database, callbacks=callbacks.targets)
    await service.start()
    await within(service.wakeups.listening.wait())
    yield JobCaller(service, await own_tenant(database))
    await service.stop()


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found
