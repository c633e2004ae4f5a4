"""The real ``penstock serve``: it is ready soon, repairs itself, drains, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.client import Client
from penstock.supervisor.ports import free_port
from tests.support.processes import alive, children, clean_environment, penstock
from tests.support.serve import READY_WITHIN_SECONDS, serving
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")


async def test_serve_runs_every_process_and_stops_them_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, PENSTOCK_WORKERS="2", WORKER_ID="w") as served:
        await until(lambda: len(served.parts()) == 4, "gateway, housekeeper, workers and postgres run")
        parts = children(served.process.pid)
        assert len([command for command in parts.values() if command.endswith("worker")]) == 2
        for event in ("ready", "worker_started", "housekeeper_started"):
            await until(lambda e=event: f'"event":"{e}"' in served.log.read_text(), event)  # type: ignore[misc]  # its type is clear
        for worker_id in ("w-1", "w-2"):
            await until(lambda i=worker_id: f'"worker_id":"{i}"' in served.log.read_text(), worker_id)  # type: ignore[misc]  # its type is clear
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(served.process.wait(), 20) == 0
        assert not [pid for pid in parts if alive(pid)]
        assert "database system is shut down" in (tmp_path / "data" / "postgres.log").read_text()
        assert served.log.read_text().count('"status":"exit status 0"') == 4, (
            "all parts ended by themselves, without an error"
        )


@pytest.mark.usefixtures("prepared_data")
async def test_ctrl_c_stops_it_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, WORKER_ID="alone") as served:
        await until(lambda: '"worker_id":"alone"' in served.log.read_text(), "the only worker has the configured name")
        served.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(served.process.wait(), 20) == 0


@pytest.mark.usefixtures("prepared_data")
async def test_any_part_that_dies_is_restarted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await until(lambda: len(served.parts()) == 4, "all parts run")
        for name in ("gateway", "worker", "housekeeper", "postgres"):
            before = served.part(name)
            os.kill(before, signal.SIGKILL)
            await until(lambda n=name, b=before: served.part(n) not in (0, b), f"{name} runs again")  # type: ignore[misc]  # its type is clear
        await until(served.ready, "the gateway is ready again", seconds=READY_WITHIN_SECONDS)
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(served.process.wait(), 20) == 0


@pytest.mark.usefixtures("prepared_data")
async def test_after_a_kill_and_a_restart_no_orphan_is_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await until(lambda: len(served.parts()) == 4, "all parts run")
        parts = list(served.parts().values())
        served.process.kill()
        await served.process.wait()
        # At once, while the old parts are still ending.
        async with penstock("serve", environment=served.environment, folder=tmp_path, log=served.log) as again:
            try:
                await until(served.ready, "ready again", seconds=READY_WITHIN_SECONDS)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{served.log.read_text()}") from None
            assert not [pid for pid in parts if alive(pid)]
            again.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(again.wait(), 20) == 0


@pytest.mark.usefixtures("prepared_data")
async def test_after_a_kill_no_replica_is_left(tmp_path: Path) -> None:
    """Processes that a replica started also end within five seconds, although none gets a signal to stop."""
    folder = tmp_path / "models" / "busy"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('runtime = "python"\neager = true\n[python]\nclass = "busy:Busy"\n')
    (folder / "busy.py").write_text(
        "import subprocess\n"
        "class Busy:\n"
        "    def load(self):\n"
        "        self.child = subprocess.Popen(['sleep', '300'])\n"
        "    def predict(self) -> int:\n"
        "        return self.child.pid\n"
    )
    async with serving(tmp_path, PENSTOCK_MODELS_DIR=str(tmp_path / "models")) as served:
        found: list[int] = []

        async def loaded() -> bool:
            gateway = served.part("gateway")
            replicas = [pid for pid, command in children(gateway).items() if "start.py" in command]
            found[:] = [*replicas, *(child for pid in replicas for child in children(pid))]
            return len(found) == 2

        await until(loaded, "the model is loaded", seconds=20)
        served.process.kill()
        await served.process.wait()
        await until(lambda: not any(map(alive, found)), "no orphan is left", seconds=5)


@pytest.mark.usefixtures("prepared_data")
async def test_with_dev_a_model_is_reloaded_when_its_code_changes(tmp_path: Path) -> None:
    """Calls and jobs both run the new code, although the manifest does not state ``watch``."""
    folder = tmp_path / "models" / "say"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('runtime = "python"\neager = true\n[python]\nclass = "say:Say"\n')
    code = "class Say:\n    def predict(self) -> str:\n        return {!r}\n"
    (folder / "say.py").write_text(code.format("one"))
    async with (
        serving(tmp_path, "--dev", PENSTOCK_MODELS_DIR=str(tmp_path / "models")) as served,
        Client(f"http://127.0.0.1:{served.port}") as client,
    ):

        async def run_job() -> object:
            job = await client.submit(owner_service="tests", task_type="predict", model_profile="say", input={})
            return (await client.wait(job.id, timedelta(seconds=30))).result

        async def says_two() -> bool:
            return bool(await client.predict("say", {}) == "two")

        assert await client.predict("say", {}) == "one"
        assert await run_job() == "one"
        (folder / "say.py").write_text(code.format("two"))
        await until(says_two, "the edit takes effect", seconds=20)
        assert await run_job() == "two"
        assert '"level":"error"' not in served.log.read_text()


@pytest.mark.usefixtures("prepared_data")
async def test_a_second_serve_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        environment = served.environment | {"HTTP_PORT": str(free_port()), "WORKER_HTTP_PORT": str(free_port())}
        log = tmp_path / "second.log"
        async with penstock("serve", environment=environment, folder=tmp_path, log=log) as second:
            assert await asyncio.wait_for(second.wait(), 20) == 1
        assert f"in use by another Penstock (process {served.process.pid})" in log.read_text()
        assert "Traceback" not in log.read_text()
        assert await served.ready()


@pytest.mark.usefixtures("prepared_data")
async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        environment = served.environment | {"PENSTOCK_DATA_DIR": str(tmp_path / "other")}
        log = tmp_path / "second.log"
        async with penstock("serve", environment=environment, folder=tmp_path, log=log) as second:
            assert await asyncio.wait_for(second.wait(), 20) == 1
        assert f"port {served.port}" in log.read_text()
        assert "Set HTTP_PORT" in log.read_text()


async def test_with_an_external_database_it_starts_none(tmp_path: Path, database_url: str) -> None:
    async with serving(tmp_path, DATABASE_URL=database_url) as served:
        await until(lambda: len(served.parts()) == 3, "gateway, worker and housekeeper run")
        assert "postgres" not in served.parts()
        assert not (tmp_path / "data" / "postgres").exists()
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(served.process.wait(), 20) == 0


async def test_serve_can_be_stopped_while_it_waits_for_the_database(tmp_path: Path) -> None:
    environment = clean_environment(
        DATABASE_URL=f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        HTTP_PORT=str(free_port()),
        WORKER_HTTP_PORT=str(free_port()),
    )
    log = tmp_path / "log"
    async with penstock("serve", environment=environment, folder=tmp_path, log=log) as process:
        await until(lambda: "database_away" in log.read_text(), "it waits for the database")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
