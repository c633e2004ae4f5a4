"""The melody of a recording, as MusicGen Melody takes it: for each moment, the strongest of the twelve tones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import torch
from transformers.audio_utils import chroma_filter_bank

_FILE: Final = "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodyFormat:
    """How a checkpoint takes melodies."""

    sampling_rate: int = 32000
    n_fft: int = 16384  # samples of one window
    hop_length: int = 4096  # samples between windows
    num_chroma: int = 12

    @classmethod
    def of_folder(cls, folder: Path) -> MelodyFormat:
        """Return what the checkpoint states."""
        try:
            stated = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        return cls(**{name: int(stated[name]) for name in cls.__slots__ if name in stated})


class Melodies:
    """Turns recordings into melodies."""

    def __init__(self, form: MelodyFormat) -> None:
        self._form = form
        bank = chroma_filter_bank(
            num_frequency_bins=form.n_fft, num_chroma=form.num_chroma, sampling_rate=form.sampling_rate, tuning=0
        )
        self._filters = torch.from_numpy(np.asarray(bank, dtype=np.float32))
        self._window = torch.hann_window(form.n_fft)

    def window(self, samples: np.ndarray, rate: int, *, begin: float, seconds: float) -> torch.Tensor:
        """Return a part of a melody, which repeats itself, as 0 or 1 [moments, tones].

        ``samples`` are float32 [frames, channels].
        """
        wave = torch.from_numpy(resampled(samples.mean(axis=1), rate, self._form.sampling_rate))
        places = torch.arange(int(seconds * self._form.sampling_rate)) + int(begin * self._form.sampling_rate)
        return self._tones(wave[places % len(wave)])

    def _tones(self, wave: torch.Tensor) -> torch.Tensor:
        missing = max(0, self._form.n_fft - len(wave))
        wave = torch.nn.functional.pad(wave, (missing // 2, missing - missing // 2))
        spectrum = torch.stft(
            wave, self._form.n_fft, self._form.hop_length, window=self._window, center=True, return_complex=True
        )
        power = self._filters @ spectrum.abs().square()  # [tones, moments]
        return torch.nn.functional.one_hot(power.argmax(dim=0), self._form.num_chroma).float()


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return a sound [frames] at another sample rate, as float32."""
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if rate == wanted:
        return wave
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted)
    parts = [
        part.to_ndarray()[0] for frames in (resampler.resample(frame), resampler.resample(None)) for part in frames
    ]
    return np.concatenate(parts)
