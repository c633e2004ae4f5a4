"""AudioCraft as the components of its document: the app on one port, AudioGen and MusicGen on theirs; tiny weights."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.models import manifest
from penstock.models.environments.environment import first_installed
from tests.support.app_serve import ServedSounds, serving_app
from tests.support.audio_files import heard
from tests.support.callbacks import receiver
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

APP = Path(__file__).parents[2] / "apps" / "audiocraft"
MAKE_WEIGHTS = Path(__file__).with_name("audiocraft") / "make_weights.py"


async def test_audiocraft_on_its_three_ports(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    environment = first_installed(manifest.read(APP / "models" / "musicgen.toml").environments)
    assert environment is not None, "run `make test-heavy`, which installs the environments"
    process = await asyncio.create_subprocess_exec(environment.python, MAKE_WEIGHTS, weights)
    assert await process.wait() == 0
    cache = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]} if "XDG_CACHE_HOME" in os.environ else {}
    async with (
        receiver() as marketplace,
        serving_app(
            APP,
            tmp_path,
            MARKETPLACE_CALLBACK=marketplace.url,
            PENSTOCK_RESULT_MEDIA_BYTES="1024",
            AUDIO_GEN_MODEL=str(weights / "audiogen"),
            MUSIC_GEN_MODEL=str(weights / "musicgen"),
            TRANSFORMERS_CACHE=str(weights),
            HF_HOME=str(weights / "home"),
            OMP_NUM_THREADS="1",
            **cache,
        ) as app,
    ):
        body = {"user_id": "ada", "input": {"prompt": "a dog barks", "kind": "sound", "duration": 1.0, "seed": 7}}
        accepted = await app.call("app", "POST", "/call", body)
        task_id = accepted.json["task_id"]
        await until(lambda: _completed(app, task_id), "the sound is made", seconds=150)
        result = (await app.get("app", f"/result/{task_id}")).json
        file = heard(await _file(app, "app", result["media"][0]["url"]))
        assert (file.sample_rate, file.seconds) == (16_000, 1.0)
        for service, prompt in (("audio-gen", "rain"), ("music-gen", "a waltz")):
            sent = await app.call(service, "POST", "/tasks", {"input": {"prompt": prompt, "duration": 1.0}})
            task = await _ended(app, service, sent.json["task_id"])
            assert task["status"] == "completed", task
            assert heard(await _file(app, service, task["media"][0]["url"])).seconds == 1.0
        (message,) = await marketplace.got(1)
        assert (message.event["task_id"], message.event["app"]) == (task_id, "audiocraft")
        assert (message.event["price_unit"], message.event["units"]) == ("second", 1.0)


async def _completed(app: ServedSounds, task_id: str) -> bool:
    status = (await app.get("app", f"/result/{task_id}")).json["status"]
    assert status not in {"failed", "cancelled"}
    return bool(status == "completed")


async def _ended(app: ServedSounds, service: str, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def ended() -> bool:
        found.update((await app.get(service, f"/tasks/{task_id}?wait=10")).json)
        return bool(found["status"] in {"completed", "failed", "cancelled"})

    await until(ended, "the task has ended", seconds=150)
    return found


async def _file(app: ServedSounds, port: str, path: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(app.url(port, path)) as response:
        assert response.status == 200
        return await response.read()
