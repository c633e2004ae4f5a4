"""The models audiogen and musicgen: text to sound, text to music, and music with a melody.

torch is imported when a model is loaded, so that the schemas are known without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from generation.errors import CannotLoad
from generation.variables import read
from pydantic import BaseModel, Field

from penstock import Audio, BadInput, context

if TYPE_CHECKING:
    from generation.batches import Request
    from generation.generator import Generator

VARIABLES: Final = read(os.environ)
_LONGEST_MELODY: Final = 300.0  # seconds

Prompt = Annotated[
    str, Field(min_length=1, max_length=VARIABLES.max_prompt_length, description="what is to be heard, in English")
]
Duration = Annotated[float, Field(ge=0.5, le=VARIABLES.max_duration, description="seconds")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="the same seed gives the same sound; without, one is chosen")]
Format = Literal["wav", "mp3", "flac", "opus"]
Guidance = Annotated[float, Field(ge=1, le=20, description="how closely the text is followed; 1: without guidance")]
Temperature = Annotated[float, Field(gt=0, le=4, description="more: less likely sounds")]
TopK = Annotated[int, Field(ge=1, le=2048, description="how many of the likeliest codes are chosen from")]


class Sound(BaseModel):
    """A generated sound."""

    audio: Audio
    format: Format
    duration: float  # seconds
    sample_rate: int  # of the file
    seed: int
    loudness: float | None  # LUFS, by ITU-R BS.1770-4; null: too short or too quiet to be measured


class AudioGen:
    """Generates sounds from a description: a siren, footsteps on gravel, a dog that barks."""

    def load(self) -> None:
        self.generator = _generator(VARIABLES.audio_gen_model, "AUDIO_GEN_MODEL")

    def predict(
        self,
        prompt: Prompt,
        duration: Duration = 5.0,
        seed: Seed | None = None,
        format: Format = "wav",  # noqa: A002  (its name in requests)
        guidance: Guidance = 3.0,
        temperature: Temperature = 1.0,
        top_k: TopK = 250,
    ) -> Sound:
        call = SimpleNamespace(**{name: value for name, value in locals().items() if name != "self"})
        return _only(self.predict_batch([call]))

    def predict_batch(self, calls: list[Any]) -> list[Sound | Exception]:
        return _sounds(calls, lambda _has_melody: self.generator)


class MusicGen:
    """Generates music from a description, and a melody that it follows."""

    def load(self) -> None:
        self.generator = _generator(VARIABLES.music_gen_model, "MUSIC_GEN_MODEL")
        self.melody_generator = self.generator if self.generator.takes_melodies else None

    def predict(
        self,
        prompt: Prompt,
        duration: Duration = 8.0,
        melody: Annotated[Audio | None, Field(description="a recording whose melody the music follows")] = None,
        seed: Seed | None = None,
        format: Format = "wav",  # noqa: A002  (its name in requests)
        guidance: Guidance = 3.0,
        temperature: Temperature = 1.0,
        top_k: TopK = 250,
    ) -> Sound:
        call = SimpleNamespace(**{name: value for name, value in locals().items() if name != "self"})
        return _only(self.predict_batch([call]))

    def predict_batch(self, calls: list[Any]) -> list[Sound | Exception]:
        return _sounds(calls, self._chosen)

    def _chosen(self, has_melody: bool) -> Generator:
        """Return the generator; that of melodies is loaded by the first call that has one."""
        if not has_melody:
            return self.generator
        if self.melody_generator is None:
            if not VARIABLES.melody_model:
                raise BadInput("music with a melody is not offered here", field="melody")
            self.melody_generator = _generator(VARIABLES.melody_model, "MUSIC_GEN_MELODY_MODEL")
        return self.melody_generator


def _generator(name: str, variable: str) -> Generator:
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if VARIABLES.may_download else "1")  # before its library is imported
    from generation.generator import Generator  # noqa: PLC0415
    from generation.loading import load  # noqa: PLC0415

    return Generator(load(name, variable, VARIABLES, context().device))


def _sounds(calls: Sequence[Any], choose: Callable[[bool], Generator]) -> list[Sound | Exception]:
    """Return the sound of each call, or why there is none."""
    from generation.batches import generate  # noqa: PLC0415

    read_calls = [_request(call, choose) for call in calls]
    requests = [one for one in read_calls if not isinstance(one, Exception)]
    sounds = iter(generate(requests, choose, context().progress))
    return [one if isinstance(one, Exception) else _sound(next(sounds), one) for one in read_calls]


def _request(call: Any, choose: Callable[[bool], Generator]) -> Request | Exception:
    """Return what a call asks for, or what is wrong with it, which does not concern the other calls of a batch."""
    from generation.batches import Request  # noqa: PLC0415
    from generation.generator import Settings  # noqa: PLC0415

    try:
        if not call.prompt.strip():
            raise BadInput("must hold words", field="prompt")
        melody = _melody(getattr(call, "melody", None))
        choose(melody is not None)
        return Request(
            prompt=call.prompt,
            settings=Settings(
                duration=call.duration, guidance=call.guidance, temperature=call.temperature, top_k=call.top_k
            ),
            seed=call.seed,
            format=call.format,
            melody=melody,
        )
    except (BadInput, CannotLoad) as error:
        return error


def _melody(audio: Audio | None) -> tuple[Any, int] | None:
    if audio is None:
        return None
    try:
        samples, rate = audio.samples()
    except BadInput as error:
        raise BadInput(error.message, field="melody") from None
    seconds = len(samples) / rate
    if not 0.1 <= seconds <= _LONGEST_MELODY:
        raise BadInput(f"must be from 0.1 to {_LONGEST_MELODY:g} s long, not {seconds:.2f} s", field="melody")
    return samples, rate


def _sound(generated: Any, request: Request) -> Sound:
    file = generated.file
    return Sound(
        audio=Audio(file.data, file.media_type, f"sound.{request.format}"),
        format=request.format,
        duration=file.duration,
        sample_rate=file.sample_rate,
        seed=generated.seed,
        loudness=file.loudness,
    )


def _only(sounds: list[Sound | Exception]) -> Sound:
    (sound,) = sounds
    if isinstance(sound, Exception):
        raise sound
    return sound
