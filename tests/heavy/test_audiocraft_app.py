"""The app AudioCraft as a marketplace uses it: ``penstock serve`` with the folder of apps, and tiny random weights."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.models import manifest
from penstock.models.environments.environment import first_installed
from tests.support.audio_files import data_of, heard, tune
from tests.support.serve import serving
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

APPS = Path(__file__).parents[2] / "apps"
MAKE_WEIGHTS = Path(__file__).with_name("audiocraft") / "make_weights.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marketplace:
    """A client of the app."""

    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as response:
            assert response.status == 200
            return await response.json()

    async def file(self, place: str) -> bytes:
        """Return a file of a result."""
        if place.startswith("data:"):
            return data_of(place)
        async with self.session.get(place) as response:
            assert response.status == 200
            return await response.read()

    async def call(self, **stated: Any) -> tuple[int, Any]:
        body = {"user_id": "ada", "input": {"prompt": "a dog barks", "duration": 2.0} | stated}
        return await self.post("/api/v1/apps/audiocraft/call", body, Prefer="wait=120")


@pytest.fixture(scope="module")
async def marketplace(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Marketplace]:
    folder, weights = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("weights")
    environment = first_installed(manifest.read(APPS / "audiocraft" / "models" / "musicgen.toml").environments)
    assert environment is not None, "run `make test-heavy`, which installs the environments"
    process = await asyncio.create_subprocess_exec(environment.python, MAKE_WEIGHTS, weights)
    assert await process.wait() == 0
    cache = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]} if "XDG_CACHE_HOME" in os.environ else {}
    async with serving(
        folder,
        PENSTOCK_APPS_DIR=str(APPS),
        PENSTOCK_RESULT_MEDIA_BYTES="1024",
        AUDIO_GEN_MODEL=str(weights / "audiogen"),
        MUSIC_GEN_MODEL=str(weights / "musicgen"),
        MUSIC_GEN_MELODY_MODEL=str(weights / "melody"),
        TRANSFORMERS_CACHE=str(weights),
        HF_HOME=str(weights / "home"),
        OMP_NUM_THREADS="1",
        **cache,
    ) as served:
        base = f"http://127.0.0.1:{served.port}"
        async with aiohttp.ClientSession(base_url=base, timeout=aiohttp.ClientTimeout(200)) as session:
            client = Marketplace(session=session)

            async def healthy() -> bool:
                async with session.get("/api/v1/apps/audiocraft/health") as response:
                    return response.status == 200 and (await response.json())["status"] == "ok"

            await until(healthy, "the app accepts requests")
            yield client


async def test_several_samples_of_a_sound(marketplace: Marketplace) -> None:
    """Each has a file of its own at a URL, of the stated duration and rate; seeds count up from the first."""
    status, reply = await marketplace.call(kind="sound", samples=3, seed=11)
    assert (status, reply["status"]) == (200, "completed"), reply
    assert [stage["name"] for stage in reply["stages"]] == ["audiogen"] * 3
    result = reply["result"]
    assert (result["duration"], result["service"], result["api"]) == (6.0, "audiogen", "AudioCraft 0.1.4")
    assert [sample["seed"] for sample in result["samples"]] == [11, 12, 13]
    assert len(reply["media"]) == 3
    files = [await marketplace.file(media["url"]) for media in reply["media"]]
    assert len(set(files)) == 3
    for file in map(heard, files):
        assert (file.sample_rate, file.seconds) == (16_000, 2.0)
        assert 0.01 < file.loud < file.peak < 0.9


async def test_music_with_an_uploaded_melody(marketplace: Marketplace) -> None:
    async with marketplace.session.post(
        "/api/v1/blobs", data=tune(440, 523), headers={"Content-Type": "audio/wav"}
    ) as response:
        upload = await response.json()
    status, reply = await marketplace.call(melody=f"blob:{upload['id']}", format="opus", seed=5)
    assert (status, reply["status"]) == (200, "completed"), reply
    _, plain = await marketplace.call(format="opus", seed=5)
    followed, other = [await marketplace.file(one["media"][0]["url"]) for one in (reply, plain)]
    assert followed != other
    assert heard(followed).codec == "opus"
    assert reply["result"]["samples"][0]["sample_rate"] == 48_000


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"duration": 31}, "input.duration"),
        ({"prompt": "x" * 101}, "input.prompt"),
        ({"samples": 5}, "input.samples"),
        ({"melody": "http://example.org/tune.wav"}, "input.melody"),
        ({"format": "ogg"}, "input.format"),
        ({"tempo": 120}, "input.tempo"),
    ],
)
async def test_limits_are_checked_before_anything_starts(
    stated: dict[str, Any], field: str, marketplace: Marketplace
) -> None:
    status, problem = await marketplace.call(**stated)
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_a_melody_for_a_sound_is_refused(marketplace: Marketplace) -> None:
    status, reply = await marketplace.call(kind="sound", melody="data:audio/wav;base64,AAAA")
    assert (status, reply["status"], reply["error"]["category"]) == (200, "failed", "bad_input")
    assert "melody: is allowed for music only" in reply["error"]["message"]


async def test_a_job_of_a_model_alone_can_be_cancelled(marketplace: Marketplace) -> None:
    """It stops between steps; the model serves the next request at once."""
    await marketplace.call(duration=0.5)  # loads the model
    job = {"task_type": "predict", "model_profile": "musicgen", "owner_service": "tests", "owner_ref": "1"}
    _, created = await marketplace.post("/api/v1/jobs", {**job, "input": {"prompt": "rain", "duration": 30.0}})
    path = f"/api/v1/jobs/{created['id']}"

    async def progressed() -> bool:
        return (await marketplace.get(path))["progress"] is not None

    await until(progressed, "the job reports progress")
    status, _ = await marketplace.post(f"{path}/cancel", {})
    assert status == 200
    _, reply = await marketplace.call(duration=0.5)
    assert reply["status"] == "completed"
    ended = await marketplace.get(path)
    assert ended["status"] == "cancelled"
    assert ended["progress"]["fraction"] < 0.9
