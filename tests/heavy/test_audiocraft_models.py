"""The models of AudioCraft with tiny random weights: real replicas, which run the code that real weights would run."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import InvalidInput, ModelUnavailable
from penstock.models import manifest
from penstock.models.environments.environment import first_installed
from penstock.models.host.deployment import Deployment
from penstock.models.manifest import Model
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment
from tests.support.audio_files import data_of, heard, tune
from tests.support.hub import hub
from tests.support.models import Models, Recorder, model_host
from tests.support.waiting import within

pytestmark = pytest.mark.timeout(300)  # torch takes seconds to import, and minutes on a busy machine

APP = Path(__file__).parents[2] / "apps" / "audiocraft"
PROGRAMS = Path(__file__).with_name("audiocraft")
# Computed by audiocraft 1.3.0 with the same parameters; see run_audiogen.py.
OF_AUDIOCRAFT = {
    "sound": [0.88573, 0.73781, -0.43571, -0.18503, -0.85392, -0.26174, 0.24512, -0.79758],
    "logits": [0.22875, -1.83931, 2.02052, 0.30786, -0.51818, -1.62599, 1.60687, -0.63374],
}


def model(name: str) -> Model:
    return manifest.read(APP / "models" / f"{name}.toml")


async def run_program(name: str, folder: Path) -> str:
    """Run a program in the environment of the models and return what it prints."""
    environment = first_installed(model("musicgen").environments)
    assert environment is not None, "run `make test-heavy`, which installs the environments"
    process = await asyncio.create_subprocess_exec(
        environment.python,
        PROGRAMS / name,
        folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "home"),
            "HF_ENDPOINT": "http://127.0.0.1:1",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.fixture(scope="module")
async def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    await run_program("make_weights.py", folder)
    return folder


@pytest.fixture(scope="module")
async def served(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Models]:
    """A host with both models."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AUDIO_GEN_MODEL": str(weights / "audiogen"),
            "MUSIC_GEN_MODEL": str(weights / "musicgen"),
            "MUSIC_GEN_MELODY_MODEL": str(weights / "melody"),
            "TRANSFORMERS_CACHE": str(weights),
            "HF_HOME": str(weights / "home"),
            "MAX_DURATION": "20",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        async with model_host(tmp_path_factory.mktemp("models")) as models:
            for name in ("audiogen", "musicgen"):
                await models.host.add(model(name))
            yield models


@pytest.fixture
def sounds(served: Models) -> Deployment:
    return served.host.find("audiogen", None)


@pytest.fixture
def music(served: Models) -> Deployment:
    return served.host.find("musicgen", None)


async def generated(
    models: Models, deployment: Deployment, *, melody: bytes | None = None, **stated: Any
) -> dict[str, Any]:
    """Call a model and return its result, in which ``audio`` is the file."""
    given = {"prompt": "rain", "duration": 1.0, "seed": 7} | stated
    segments = [] if melody is None else [Segment(melody, "audio/wav", ("melody",))]
    if melody is not None:
        given["melody"] = None
    result = await models.host.call(deployment, json.dumps(given).encode(), segments).done
    found: dict[str, Any] = json.loads(inlined(result.json, result.segments))
    return {**found, "audio": data_of(found["audio"])}


async def test_music_is_a_playable_file(served: Models, music: Deployment) -> None:
    """It has the stated duration and rate, and is neither silent nor clipped; the same seed returns it again."""
    found = await generated(served, music, duration=2.5)
    file = heard(found["audio"])
    assert (file.codec, file.sample_rate, found["sample_rate"]) == ("pcm_s16le", 32_000, 32_000)
    assert file.seconds == pytest.approx(2.5, abs=1e-4)
    assert found["duration"] == 2.5
    assert 0.01 < file.loud < file.peak < 0.9
    again = await generated(served, music, duration=2.5)
    assert again["audio"] == found["audio"]
    other = await generated(served, music, duration=2.5, seed=8)
    assert other["audio"] != found["audio"]


async def test_without_a_seed_one_is_chosen_and_returned(served: Models, music: Deployment) -> None:
    first, second = [await generated(served, music, seed=None) for _ in range(2)]
    assert first["seed"] != second["seed"]
    again = await generated(served, music, seed=first["seed"])
    assert again["audio"] == first["audio"]


@pytest.mark.parametrize(
    ("form", "codec", "rate"), [("mp3", "mp3float", 32_000), ("flac", "flac", 32_000), ("opus", "opus", 48_000)]
)
async def test_formats(form: str, codec: str, rate: int, served: Models, music: Deployment) -> None:
    """Players find the duration that the result states; opus has a rate of its own."""
    found = await generated(served, music, format=form, duration=2.0)
    file = heard(found["audio"])
    assert (file.codec, file.sample_rate, found["sample_rate"]) == (codec, rate, rate)
    assert file.seconds == pytest.approx(2.0, abs=0.08)  # mp3 and opus have frames
    assert 0.01 < file.loud < file.peak <= 1


async def test_a_sound_longer_than_the_window_of_its_model(served: Models, sounds: Deployment) -> None:
    """The settings of the tiny AudioGen state a window of two seconds; a longer sound takes several."""
    found = await generated(served, sounds, duration=5.0)
    file = heard(found["audio"])
    assert (file.sample_rate, file.seconds) == (16_000, 5.0)
    assert found["loudness"] == pytest.approx(-14, abs=0.1)


async def test_every_step_reports_progress(served: Models, music: Deployment) -> None:
    recorder = Recorder()
    call = served.begin(music, {"prompt": "rain", "duration": 1.0}, streams=True, listener=recorder)
    await call.done
    fractions = [value["fraction"] for value in recorder.progressed]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(set(fractions)) > 10  # of 53 steps; reports that come together are joined


async def test_a_melody_is_followed(served: Models, music: Deployment) -> None:
    """The first call with a melody loads the weights for melodies."""
    plain = await generated(served, music)
    low = await generated(served, music, melody=tune(220, 220))
    high = await generated(served, music, melody=tune(659, 659))
    assert len({found["audio"] for found in (plain, low, high)}) == 3
    assert heard(low["audio"]).seconds == pytest.approx(1.0, abs=1e-4)


async def test_a_batch_gives_each_call_what_it_gets_alone(served: Models, music: Deployment) -> None:
    """A melody that cannot be read fails its own call only."""
    stated: list[dict[str, Any]] = [
        {"prompt": "rain", "seed": 1},
        {"prompt": "wind", "seed": 2},
        {"prompt": "a longer text", "seed": 3},
    ]
    alone = [await generated(served, music, **one) for one in stated]
    broken = generated(served, music, melody=b"no sound")
    *together, refused = await asyncio.gather(
        *(generated(served, music, **one) for one in stated), broken, return_exceptions=True
    )
    assert [found["audio"] for found in together if isinstance(found, dict)] == [found["audio"] for found in alone]
    assert isinstance(refused, InvalidInput)
    assert [problem.field for problem in refused.problems] == ["melody"]


async def test_a_cancelled_call_stops_between_steps(served: Models, music: Deployment) -> None:
    """The replica stays, and the next call does not wait for the rest of the cancelled one."""
    await generated(served, music)
    (replica,) = music.replicas
    recorder = Recorder()
    call = served.begin(music, {"prompt": "rain", "duration": 20.0}, streams=True, listener=recorder)
    await within(recorder.something_came.wait(), 60)
    call.close()
    await generated(served, music)
    assert music.replicas == [replica]
    assert music.restarts == 0
    assert recorder.progressed[-1]["fraction"] < 0.9


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"duration": 20.5}, "duration"),
        ({"duration": 0.1}, "duration"),
        ({"prompt": "x" * 101}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"format": "midi"}, "format"),
        ({"seed": -1}, "seed"),
    ],
)
async def test_limits(stated: dict[str, Any], field: str, served: Models, music: Deployment) -> None:
    with pytest.raises(InvalidInput) as refused:
        served.begin(music, {"prompt": "rain", **stated})
    assert [problem.field for problem in refused.value.problems] == [field]


async def test_audiogen_computes_what_audiocraft_computes(weights: Path) -> None:
    """The codec and the language model, with parameters as that package stores them."""
    found = json.loads(await run_program("run_audiogen.py", weights))
    for part, expected in OF_AUDIOCRAFT.items():
        assert found[part] == pytest.approx(expected, abs=2e-4)


async def test_half_precision_leaves_the_codec_exact(weights: Path) -> None:
    """The weights of GPUs, on a CPU: the types fit together, and the codec has every digit of its file."""
    found = json.loads(await run_program("run_half_precision.py", weights))
    assert len(found) == 6
    for name, result in found.items():
        assert result == {"half": True, "codec": True, "loud": True}, name


async def test_weights_that_cannot_be_used_are_reported_with_what_to_do(weights: Path) -> None:
    found = json.loads(await run_program("check_errors.py", weights))
    expected = {
        "missing": "MUSIC_GEN_MODEL: the weights of facebook/musicgen-small are not here. Put them into",
        "no hub": "MUSIC_GEN_MODEL: facebook/musicgen-small cannot be downloaded into",
        "without weights": " has no *.safetensors or ",
        "cut off": "cannot be loaded: ",
        "other type": "has a model of type whisper, not one of musicgen, musicgen_melody",
        "stereo": "stereo models are not supported",
        "device": "its environment has torch without CUDA. Install the other one",
        "memory": "MUSIC_GEN_MODEL: the model needs 428408.4 GiB on cpu, where",
        "text encoder": "AUDIO_GEN_MODEL (its text encoder): the weights of google-t5/t5-tiny are not here",
        "layer": "its parameters are not those of AudioGen: missing: decoder.lm_heads.0.weight",
        "pickle": "cannot be read: ",
    }
    for name, text in expected.items():
        assert text in found[name], name


async def test_missing_weights_for_melodies_fail_calls_with_a_melody_only(
    models: Models, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSIC_GEN_MODEL", str(weights / "musicgen"))
    monkeypatch.setenv("MUSIC_GEN_MELODY_MODEL", "facebook/musicgen-melody")
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    deployment = await models.host.add(model("musicgen"))
    await deployment.load()
    found = await asyncio.gather(  # the second and the third wait for the first, and form a batch
        generated(models, deployment, duration=5.0),
        generated(models, deployment, melody=tune(440)),
        generated(models, deployment),
        return_exceptions=True,
    )
    assert [isinstance(one, dict) for one in found] == [True, False, True]
    assert "MUSIC_GEN_MELODY_MODEL: the weights of facebook/musicgen-melody are not here" in str(found[1])


async def test_a_model_without_weights_is_unavailable_and_says_why(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSIC_GEN_MODEL", "facebook/musicgen-small")
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    deployment = await models.host.add(model("musicgen"))
    with pytest.raises(ModelUnavailable, match="ALLOW_MODEL_DOWNLOAD=true"):
        await deployment.load()


async def test_weights_are_downloaded_if_the_operator_allows_it(
    models: Models, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start finds them and makes no request. The log states what is downloaded, and into which folder."""
    monkeypatch.setenv("MUSIC_GEN_MODEL", "someone/tiny-musicgen")
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ALLOW_MODEL_DOWNLOAD", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    async with hub("someone/tiny-musicgen", weights / "musicgen") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        deployment = await models.host.add(model("musicgen"))
        await deployment.load()
        assert "/someone/tiny-musicgen/resolve/" in " ".join(server.requests)
        wanted = f"downloading someone/tiny-musicgen (0.0 GB) into {tmp_path / 'cache'}"
        assert any(wanted in line.message for line in models.lines(deployment))
        found = await generated(models, deployment)
        assert heard(found["audio"]).seconds == 1.0
    monkeypatch.setenv("ALLOW_MODEL_DOWNLOAD", "false")
    await models.host.reload(model("musicgen"))
    found = await generated(models, models.host.find("musicgen", None))
    assert heard(found["audio"]).seconds == 1.0


async def test_a_wrong_variable_is_named(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DURATION", "long")
    with pytest.raises(ModelUnavailable, match="MAX_DURATION must be a number from 1 to 600, not 'long'"):
        await models.host.add(model("audiogen"))
