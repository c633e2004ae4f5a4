"""The embedded PostgreSQL, with real servers that are killed in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from penstock.errors import CannotStart
from penstock.postgres import embedded, leftover
from penstock.postgres.embedded import EmbeddedServer, embedded_url, socket_folder
from tests.support.processes import alive, clean_environment
from tests.support.waiting import until

OWNER = """
import asyncio, sys
from pathlib import Path
from penstock.postgres.embedded import EmbeddedServer
from penstock.telemetry import logs

logs.configure(stream=sys.stderr)

async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await server.wait_died()

asyncio.run(main())
"""


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_new_folder_becomes_a_server(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    await server.start()
    try:
        assert await value(server.url, "SELECT upper('straße-ж')") == "STRAßE-Ж"
        assert await value(server.url, "SHOW server_encoding") == "UTF8"
        assert await value(server.url, "SHOW listen_addresses") == ""
        assert await value(server.url, "SHOW fsync") == "on"
        assert socket_folder(server.data_dir).stat().st_mode & 0o077 == 0
    finally:
        await server.stop()
    assert server.pid is None


async def test_committed_rows_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    try:
        await value(server.url, "CREATE TABLE kept AS SELECT 1 AS number")
        await server.stop()
        await server.start()
        await value(server.url, "UPDATE kept SET number = 2")
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await server.wait_died() == -signal.SIGKILL
        await server.start()
        assert await value(server.url, "SELECT number FROM kept") == 2
    finally:
        await server.stop()


async def test_a_start_waits_for_the_processes_of_a_killed_server(tmp_path: Path) -> None:
    """They hold its shared memory until they have noticed that it is gone; this one is kept from noticing."""
    server = EmbeddedServer(tmp_path)
    await server.start()
    try:
        pid = server.pid
        assert pid is not None
        orphan = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(orphan, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        assert await server.wait_died() == -signal.SIGKILL
        starting = asyncio.create_task(server.start())
        done, _ = await asyncio.wait([starting], timeout=0.2)
        assert not done
        os.kill(orphan, signal.SIGCONT)
        await starting
        assert await value(server.url, "SELECT 1") == 1
    finally:
        await server.stop()


async def test_stopping_twice_and_stopping_what_never_started_is_fine(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    await first.start()
    try:
        with pytest.raises(CannotStart, match=rf"in use by another Penstock \(process {os.getpid()}\)"):
            await second.start()
        assert await value(first.url, "SELECT 1") == 1
    finally:
        await first.stop()
    await second.start()
    await second.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child that its parent died")
async def test_a_killed_owner_leaves_no_server_behind(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE, env=clean_environment()
    )
    assert owner.stdout is not None
    server = int((await owner.stdout.readline()).decode())
    assert alive(server)
    owner.kill()
    await owner.wait()
    await until(lambda: not alive(server), "the server ended with its owner")


async def test_a_server_left_over_from_an_earlier_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedServer(tmp_path)
    await first.start()
    pid = first.pid
    assert pid is not None
    # An owner that dies where no parent-death signal exists leaves a running server and no lock.
    assert first._lock is not None
    first._lock.close()
    second = EmbeddedServer(tmp_path)
    await second.start()
    try:
        assert second.pid != pid
        assert not alive(pid)
        assert await value(second.url, "SELECT 1") == 1
    finally:
        await second.stop()
    await first.wait_died()


async def test_a_foreign_process_with_the_pid_of_an_old_server_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n")
    assert leftover.running_server(tmp_path) is None
    await leftover.stop_server(tmp_path)


async def test_a_folder_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(CannotStart, match="written by PostgreSQL 16"):
        await EmbeddedServer(tmp_path).start()


async def test_a_server_that_cannot_start_reports_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded._SETTINGS, "shared_buffers", "plenty")
    with pytest.raises(CannotStart, match="shared_buffers"):
        await EmbeddedServer(tmp_path).start()


async def test_an_initialisation_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    server = EmbeddedServer(tmp_path)
    await server.start()
    await server.stop()


async def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / "data folder & more"
    server = EmbeddedServer(deep)
    assert len(os.fsencode(socket_folder(deep))) < 90
    assert socket_folder(deep) == socket_folder(deep)
    await server.start()
    try:
        assert await value(embedded_url(deep), "SELECT 1") == 1
    finally:
        await server.stop()
        socket_folder(deep).rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
async def test_as_root_the_server_runs_as_another_user_below_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedServer(closed / "data")
    await server.start()
    try:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert closed.stat().st_mode & 0o777 == 0o701, "passable, and still not to be listed"
    finally:
        await server.stop()
