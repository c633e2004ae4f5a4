"""Generate samples: several at once, windows for long ones, with progress after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from transformers import StoppingCriteriaList

from generation.loading import MUSIC_WINDOW, Loaded
from generation.melody import Melodies
from generation.sampling import EachStep, Sampler, SamplerLast

_KEPT: Final = {True: 0.4, False: 0.8}  # part of a window that the next one continues, of music and of other sounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What samples of one batch have in common."""

    duration: float  # seconds
    guidance: float  # how closely the text is followed; 1: without guidance
    temperature: float
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample to generate."""

    prompt: str
    seed: int
    melody: tuple[np.ndarray, int] | None = None  # float32 [frames, channels], and the sample rate


class Generator:
    """Generates sound with one model. ``on_step`` of a call gets the fraction that is done, and may raise."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._melodies = None if loaded.melody is None else Melodies(loaded.melody)
        self._codec = loaded.model.config.audio_encoder
        self._window = loaded.window
        self._kept = _KEPT[loaded.window >= MUSIC_WINDOW]
        self._decode = loaded.model.audio_encoder.decode
        # `generate` ends by decoding its codes. Here it returns them: windows are continued by codes, and the whole is
        # decoded once, in float32.
        loaded.model.audio_encoder.decode = lambda codes, *_args, **_options: SimpleNamespace(audio_values=codes)

    @property
    def sample_rate(self) -> int:
        """Frames a second."""
        return int(self._codec.sampling_rate)

    @property
    def takes_melodies(self) -> bool:
        return self._melodies is not None

    def length(self, prompt: str) -> int:
        """Return the length of a text in tokens."""
        return len(self._tokenizer(prompt)["input_ids"])

    @torch.inference_mode()
    def generate(
        self, samples: Sequence[Sample], settings: Settings, on_step: Callable[[float], None]
    ) -> list[np.ndarray]:
        """Return the sounds, float32 [frames], each as long as ``settings`` say.

        All texts have the same length in tokens, and all samples have a melody, or none has.
        """
        codes = self._codes(samples, settings, on_step)
        waves = self._decode(codes[None], [None] * len(samples)).audio_values  # [samples, channels, frames]
        frames = round(settings.duration * self.sample_rate)
        return [wave[0, :frames] for wave in waves.float().cpu().numpy()]

    def _codes(
        self, samples: Sequence[Sample], settings: Settings, on_step: Callable[[float], None]
    ) -> torch.LongTensor:
        """Return the codes [samples, codebooks, moments]. Each seed continues from window to window."""
        total = self._moments(settings.duration, up=True)
        window = min(total, self._moments(self._window))
        sampler = Sampler([one.seed for one in samples], top_k=settings.top_k, temperature=settings.temperature)
        text = self._tokenizer([one.prompt for one in samples], return_tensors="pt")
        codes: torch.Tensor | None = None
        while codes is None or codes.shape[-1] < total:
            done = 0 if codes is None else codes.shape[-1]
            kept = 0 if codes is None else int(window * self._kept)
            begin = done - kept
            length = min(window, total - begin)
            inputs: dict[str, Any] = {
                name: text[name].to(self._model.device) for name in ("input_ids", "attention_mask")
            }
            if codes is not None:
                inputs["decoder_input_ids"] = codes[..., begin:].flatten(0, 1)
            if self._melodies is not None and any(one.melody is not None for one in samples):
                inputs["input_features"] = self._features(samples, begin / self._codec.frame_rate)
            report = partial(_report, on_step, done, total)
            new = self._window_codes(inputs, length - kept, settings, sampler, report)
            codes = new if codes is None else torch.cat([codes, new[..., kept:]], dim=-1)
        return codes

    def _window_codes(
        self,
        inputs: dict[str, Any],
        moments: int,
        settings: Settings,
        sampler: Sampler,
        on_step: Callable[[int], None],
    ) -> torch.Tensor:
        # The codebooks follow each other with a delay of one step each.
        steps = moments + self._model.decoder.num_codebooks - 1
        codes = self._model.generate(
            **inputs,
            max_new_tokens=steps,
            guidance_scale=settings.guidance,
            do_sample=False,  # the sampler has added the chance
            logits_processor=SamplerLast([sampler]),
            stopping_criteria=StoppingCriteriaList([EachStep(on_step)]),
        )
        return codes[0]

    def _features(self, samples: Sequence[Sample], begin: float) -> torch.Tensor:
        """Return the melodies from ``begin`` on, float [samples, moments, tones]."""
        assert self._melodies is not None  # noqa: S101 - the caller has checked that
        found = [
            self._melodies.window(*one.melody, begin=begin, seconds=self._window)
            for one in samples
            if one.melody is not None
        ]
        return torch.stack(found).to(self._model.device, self._model.dtype)

    def _moments(self, seconds: float, *, up: bool = False) -> int:
        return max(1, int(seconds * self._codec.frame_rate + (0.999 if up else 0)))


def _report(on_step: Callable[[float], None], before: int, total: int, steps: int) -> None:
    """Report the fraction of all steps that is done: those of earlier windows and of this one."""
    on_step(min(1.0, (before + steps) / total))
