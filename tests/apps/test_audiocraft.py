"""What can be checked of the app AudioCraft without its heavy packages; tests/heavy runs the rest."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from penstock.apps import manifest
from penstock.errors import InvalidInput
from penstock.models import manifest as model_manifest
from penstock.models.environments import lock_file
from penstock.models.host.deployment import Deployment
from penstock.settings import load_settings
from tests.support.models import Models, model_host

APP = Path(__file__).parents[2] / "apps" / "audiocraft"
MODELS = APP / "models"


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    async with model_host(tmp_path) as models:
        yield models


def test_the_variables_and_services_of_the_document() -> None:
    found = manifest.read(APP / "app.toml")
    assert [(one.name, one.model, one.port, one.port_variable) for one in found.services] == [
        ("audio-gen", "audiogen", 8081, "AUDIO_GEN_PORT"),
        ("music-gen", "musicgen", 8082, "MUSIC_GEN_PORT"),
    ]
    document = {
        "MAX_DURATION": "30",
        "MAX_PROMPT_LEN": "100",
        "CACHE_MODEL_DIR": "../model_hub",
        "TRANSFORMERS_CACHE": "/model_hub",
        "AUDIOCRAFT_CACHE_DIR": "/model_hub",
        "AUDIO_GEN_MODEL": "facebook/audiogen-medium",
        "MUSIC_GEN_MODEL": "facebook/musicgen-small",
        "API_VERSION": "0.1.4",
        "API_NAME": "AudioCraft",
    }
    assert {name: value for name, value in found.defaults().items() if name in document} == document
    assert found.version == document["API_VERSION"]


def test_both_lock_files_pin_the_same_versions() -> None:
    """The one without CUDA has fewer packages, and another build of torch."""
    pinned: list[dict[str, str]] = []
    for name in ("requirements.lock", "requirements-cpu.lock"):
        pins = lock_file.pins((MODELS / name).read_bytes())
        here = [pin for pin in pins if ">= '3.12'" not in pin.text]
        pinned.append({pin.name: pin.text.partition("==")[2].split()[0] for pin in here})
    whole, small = pinned
    assert (whole.pop("torch"), small.pop("torch")) == ("2.13.0", "2.13.0+cpu")
    assert small.items() <= whole.items()
    assert {"nvidia-cudnn-cu13", "triton"} <= whole.keys() - small.keys()


def memory_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> int | None:
    monkeypatch.syspath_prepend(str(MODELS))
    return cast("int | None", importlib.import_module("generation.memory").free_memory(root))


def test_the_cache_of_files_counts_as_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that has just read the weights from files has filled its limit with them."""
    assert memory_of(tmp_path, monkeypatch) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  64 kB\nMemAvailable:  32 kB\nHugePages_Total:  0\n")
    assert memory_of(tmp_path, monkeypatch) == 32 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("9000\n")
    assert memory_of(tmp_path, monkeypatch) == 32 * 1024
    (group / "memory.max").write_text("10000\n")
    assert memory_of(tmp_path, monkeypatch) == 1000
    (group / "memory.stat").write_text("anon 1000\nfile 8000\nshmem 2000\ninactive_file 5000\nactive_file 1000\n")
    assert memory_of(tmp_path, monkeypatch) == 7000


def test_the_readme_calls_the_port_on_which_penstock_serve_listens() -> None:
    ports = re.findall(r"127\.0\.0\.1:(\d+)", (APP / "README.md").read_text())
    assert set(ports) == {str(load_settings(None).http_port)}


async def described(models: Models, name: str) -> Deployment:
    """Return a model of the app with its schema, in this Python: torch is imported when a model is loaded."""
    stated = model_manifest.read(MODELS / f"{name}.toml").manifest
    options = {"class": stated.options["class"]}
    model = models.model(name, "python", options, folder=MODELS, environment=stated.environment)
    deployment = await models.host.add(model)
    await deployment.describe()
    return deployment


async def test_the_limits_of_the_variables_are_in_the_schemas(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DURATION", "12")
    monkeypatch.setenv("MAX_PROMPT_LEN", "7")
    music = await described(models, "musicgen")
    with pytest.raises(InvalidInput) as refused:
        music.checker.check({"prompt": "too long", "duration": 12.5})
    assert {problem.field for problem in refused.value.problems} == {"prompt", "duration"}
    music.checker.check({"prompt": "short", "duration": 12, "melody": None})
    sounds = await described(models, "audiogen")
    with pytest.raises(InvalidInput, match="melody"):
        sounds.checker.check({"prompt": "short", "melody": None})
