"""Turn requests into files: those that are alike are generated together.

Alike means equally long too, in time and in tokens: texts of different lengths would be padded, which changes the sound
of some models, so that a seed would give another sound in another batch.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from generation.files import Format, SoundFile, encode
from generation.generator import Generator, Sample, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for one sample."""

    prompt: str
    settings: Settings
    seed: int | None
    format: Format
    melody: tuple[np.ndarray, int] | None = None  # float32 [frames, channels], and the sample rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A file, and the seed that gives it again."""

    file: SoundFile
    seed: int


def generate(
    requests: Sequence[Request], choose: Callable[[bool], Generator], on_progress: Callable[[float], None]
) -> list[Generated]:
    """Return the files of requests, in their order.

    ``choose`` returns the generator of requests with a melody, or without.
    """
    seeded = [one if one.seed is not None else replace(one, seed=secrets.randbits(32)) for one in requests]
    alike: dict[tuple[Settings, bool, int], list[int]] = defaultdict(list)
    for place, one in enumerate(seeded):
        has_melody = one.melody is not None
        alike[one.settings, has_melody, choose(has_melody).length(one.prompt)].append(place)
    found: dict[int, Generated] = {}
    for done, ((settings, has_melody, _length), places) in enumerate(alike.items()):
        generator = choose(has_melody)
        samples = [
            Sample(prompt=one.prompt, seed=one.seed or 0, melody=one.melody) for one in map(seeded.__getitem__, places)
        ]
        waves = generator.generate(samples, settings, lambda part, done=done: on_progress((done + part) / len(alike)))
        for place, sample, wave in zip(places, samples, waves, strict=True):
            file = encode(wave, generator.sample_rate, seeded[place].format)
            found[place] = Generated(file=file, seed=sample.seed)
    return [found[place] for place in range(len(requests))]
