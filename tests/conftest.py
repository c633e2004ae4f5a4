"""Fixtures of all tests: a private PostgreSQL per test process, and a migrated database for each test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import asyncpg
import hypothesis
import pytest

from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.migrate import migrate
from penstock.settings import Settings
from penstock.supervisor import ports
from penstock.telemetry import logs
from tests.support import in_memory
from tests.support.databases import own_database

_MAX_TEST_PROCESSES: Final = 8  # each has a PostgreSQL of its own

# Other programs may keep the machine busy, so the time that an example takes proves nothing.
hypothesis.settings.register_profile("penstock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("penstock")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give this session its own temporary folders, and each of its processes its own share of the ports.

    pytest's usual temporary folder is shared: every other session of the same user that begins meanwhile closes it to
    the account that PostgreSQL runs as.
    """
    worker: dict[str, int] | None = getattr(config, "workerinput", None)  # set by pytest-xdist
    if worker is None:
        folder = tempfile.mkdtemp(prefix="penstock-tests-")
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        os.environ["XDG_DATA_HOME"] = folder  # what processes keep by default
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    else:
        # Shorter than what pytest-xdist chooses: sockets lie in these folders, and their paths must be short.
        config.option.basetemp = str(Path(os.environ["PYTEST_DEBUG_TEMPROOT"]) / str(worker["workerid"]))
        ports.use_share(int(str(worker["workerid"]).removeprefix("gw")), worker["workercount"])
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts background programs like this, and programs that tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process per core, but none besides pytest's own for a single file."""
    named = [Path(argument.partition("::")[0]) for argument in config.args]
    files = sum(1 if path.is_file() else len(list(path.rglob("test_*.py"))) for path in named)
    wanted = min(len(os.sched_getaffinity(0)), files, _MAX_TEST_PROCESSES)
    return wanted if wanted > 1 else 0


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Remove our settings from the environment, so that they do not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.descriptions():
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    logs.configure(level="warning", form="json")


@pytest.fixture(scope="session")
def _server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the PostgreSQL of this process, in memory if there is room.

    There a database with its 1,200 files is created and dropped in a twentieth of the time.
    """
    if in_memory.has_room():
        with in_memory.own_folder() as folder:
            yield folder
    else:
        yield tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="session")
async def postgres_server(_server_folder: Path) -> AsyncIterator[EmbeddedServer]:
    """A running PostgreSQL with the newest schema in its database ``penstock``, which serves as a template only."""
    server = EmbeddedServer(_server_folder)
    await server.start()
    try:
        await migrate(server.url)
        admin = await asyncpg.connect(server.url)
        # It is not killed, so commits need not wait for the disk.
        await admin.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
        await admin.close()
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def database_url(postgres_server: EmbeddedServer) -> AsyncIterator[str]:
    """A database of this test's own, with the newest schema."""
    async with own_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
async def module_database_url(postgres_server: EmbeddedServer) -> AsyncIterator[str]:
    """A database that the tests of one module share, with the newest schema."""
    async with own_database(postgres_server) as url:
        yield url
