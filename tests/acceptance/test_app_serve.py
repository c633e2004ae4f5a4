"""``penstock app serve`` on one machine: what it refuses, what dies and comes back, and how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.app_serve import ServedSounds, port_variables, ports, serving_sounds
from tests.support.command_line import run_command
from tests.support.sounds import write_app
from tests.support.waiting import until, within

pytestmark = pytest.mark.timeout(300)

PARTS = {"gateway", "flows", "housekeeper", "audio-gen-api", "audio-gen-worker", "music-gen-api", "music-gen-worker"}


@pytest.mark.usefixtures("prepared_data")
async def test_every_process_may_be_killed_and_the_app_goes_on(tmp_path: Path) -> None:
    async with serving_sounds(tmp_path) as app:
        assert app.parts().keys() == PARTS | {"postgres"}
        requests = []
        for name in sorted(PARTS):
            requests += [await request(app, name), await request(app, name)]
            before = app.parts()[name]
            os.kill(before, signal.SIGKILL)
            await until(lambda name=name, before=before: _is_new(app, name, before), f"{name} was started again")  # type: ignore[misc]
            await until(app.ready, "the app accepts requests")
        for task_id in requests:
            await until(lambda task_id=task_id: _completed(app, task_id), "the request has ended")  # type: ignore[misc]
        app.process.terminate()
        assert await within(app.process.wait(), 60) == 0
        assert "Traceback" not in app.log.read_text()


def _is_new(app: ServedSounds, name: str, before: int) -> bool:
    return app.parts().get(name, before) != before


async def _completed(app: ServedSounds, task_id: str) -> bool:
    return bool((await app.get("app", f"/result/{task_id}")).json["status"] == "completed")


async def request(app: ServedSounds, text: str) -> str:
    kind = "music" if "music" in text else "sound"
    body = {"user_id": "ada", "input": {"text": text, "kind": kind}}
    return str((await app.call("app", "POST", "/call", body)).json["task_id"])


async def test_mistakes_are_named_before_anything_starts(tmp_path: Path) -> None:
    write_app(tmp_path / "apps")

    async def refused(*arguments: str, **variables: str) -> str:
        variables = {
            "PENSTOCK_APPS_DIR": str(tmp_path / "apps"),
            "PENSTOCK_DATA_DIR": str(tmp_path / "data"),
        } | variables
        done = await run_command(tmp_path, "app", "serve", *arguments, **variables)
        assert done.status != 0
        assert "Traceback" not in done.err
        return done.err

    assert "did you mean sounds?" in await refused("sound")
    assert "audio-gen-worker" in await refused("sounds", "--component", "audio-gen-workr")
    assert "AUDIO_GEN_PORT: must differ" in await refused("sounds", AUDIO_GEN_PORT="8007")
    assert "set PENSTOCK_APPS_DIR" in await refused("sounds", PENSTOCK_APPS_DIR="")
    manifest = tmp_path / "apps" / "sounds" / "app.toml"
    manifest.write_text('name = "sounds"\n[[services]]\nname = "x"\nmodel = "gone"\nport = 0\n')
    assert "services[0].port" in await refused("sounds")
    manifest.write_text('name = "sounds"\n[[services]]\nname = "x"\nmodel = "gone"\nport = 9000\n')
    assert "services[0].model: 'gone' must be a model" in await refused("sounds")
    assert not (tmp_path / "data").exists()


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    write_app(tmp_path / "apps")
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        done = await run_command(
            tmp_path,
            *("app", "serve", "sounds"),
            PENSTOCK_APPS_DIR=str(tmp_path / "apps"),
            PENSTOCK_DATA_DIR=str(tmp_path / "data"),
            **(port_variables(ports()) | {"MUSIC_GEN_PORT": port}),
        )
    assert done.status == 1
    assert f"port {port}" in done.err
    assert "Set MUSIC_GEN_PORT" in done.err
