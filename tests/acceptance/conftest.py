"""Fixtures of the acceptance tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from penstock.postgres.embedded import EmbeddedServer
from penstock.postgres.migrate import migrate


@pytest.fixture(scope="session")
async def _data_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an initialised and migrated database, whose server has stopped."""
    folder = tmp_path_factory.mktemp("template")
    server = EmbeddedServer(folder)
    await server.start()
    try:
        await migrate(server.url)
    finally:
        await server.stop()
    return folder


@pytest.fixture
def prepared_data(_data_template: Path, tmp_path: Path) -> None:
    """Make ``tmp_path / "data"`` a data folder with a migrated database.

    This is for tests that are not about the first start: initialising a database waits for the disk for seconds.
    """
    subprocess.run(["cp", "-a", str(_data_template), str(tmp_path / "data")], check=True)
