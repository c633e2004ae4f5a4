"""The flow of the app: check the request, let a model generate the samples, return the files."""

import os
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from penstock import BadInput
from penstock.flows import flow, run

API_NAME = os.environ.get("API_NAME") or "AudioCraft"
API_VERSION = os.environ.get("API_VERSION") or "0.1.4"
MAX_DURATION = float(os.environ.get("MAX_DURATION") or 30)
MAX_PROMPT_LEN = int(os.environ.get("MAX_PROMPT_LEN") or 100)
MAX_SAMPLES = int(os.environ.get("MAX_SAMPLES") or 4)

_TIMEOUT = timedelta(hours=1)  # of one sample; on a CPU, a minute of music may take that long
_SERVICES = {"sound": "audiogen", "music": "musicgen"}


class Sample(BaseModel):
    """One generated file."""

    audio: str  # where the file is
    format: str
    duration: float  # seconds
    sample_rate: int
    seed: int  # the same request with this seed gives the same sound
    loudness: float | None  # LUFS, by ITU-R BS.1770-4


class Result(BaseModel):
    """The files of a request."""

    samples: list[Sample]
    duration: float  # of all samples together, in seconds: what is charged
    service: str
    api: str


@flow(name="audiocraft", version="1", examples=[{"kind": "sound", "prompt": "a dog barks twice", "duration": 3}])
async def audiocraft(
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_LEN, description="what is to be heard")],
    kind: Annotated[Literal["sound", "music"], Field(description="sound: AudioGen; music: MusicGen")] = "music",
    duration: Annotated[float, Field(ge=0.5, le=MAX_DURATION, description="seconds of each sample")] = 5.0,
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES, description="how many different samples")] = 1,
    melody: Annotated[
        str | None,
        Field(pattern="^(blob:|data:audio/)", description="music only: a recording as blob:ID or a data URL"),
    ] = None,
    seed: Annotated[
        int | None, Field(ge=0, lt=2**62, description="of the first sample; each next one is one higher")
    ] = None,
    format: Literal["wav", "mp3", "flac", "opus"] = "wav",  # noqa: A002  (its name in requests)
    guidance: Annotated[float, Field(ge=1, le=20, description="how closely the text is followed")] = 3.0,
    temperature: Annotated[float, Field(gt=0, le=4)] = 1.0,
) -> Result:
    """Generates sounds, music, and music that follows a melody."""
    _check(prompt, kind, melody)
    first = run.random().randrange(2**32) if seed is None else seed
    service = _SERVICES[kind]
    asked: dict[str, Any] = {
        "prompt": prompt, "duration": duration, "format": format, "guidance": guidance, "temperature": temperature,
    }  # fmt: skip
    if melody is not None:
        asked["melody"] = melody
    parts = [run.call(service, {**asked, "seed": first + number}, timeout=_TIMEOUT) for number in range(samples)]
    sounds = await run.gather(*parts)
    found = [Sample.model_validate(sound) for sound in sounds]
    return Result(
        samples=found,
        duration=round(sum(sample.duration for sample in found), 3),
        service=service,
        api=f"{API_NAME} {API_VERSION}",
    )


def _check(prompt: str, kind: str, melody: str | None) -> None:
    """Refuse what the types do not express."""
    if not prompt.strip():
        raise BadInput("must hold words", field="prompt")
    if melody is not None and kind != "music":
        raise BadInput("is allowed for music only: leave it out, or set kind to music", field="melody")
