"""Sound as files: loudness by ITU-R BS.1770-4, and the formats wav, mp3, flac and opus."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final, Literal

import av
import numpy as np
import pyloudnorm

from generation.melody import resampled

Format = Literal["wav", "mp3", "flac", "opus"]
TARGET_LUFS: Final = -14.0
_MAX_PEAK: Final = 10 ** (-1 / 20)  # one decibel below full scale, for what a decoder of mp3 or opus adds
_SHORTEST: Final = 0.4  # seconds; the measure's block
_OPUS_RATE: Final = 48000  # opus has few rates, and this is the one that decoders use
# container, codec, sample format, media type
_CODECS: Final[dict[Format, tuple[str, str, str, str]]] = {
    "wav": ("wav", "pcm_s16le", "s16", "audio/wav"),
    "mp3": ("mp3", "libmp3lame", "s16p", "audio/mpeg"),
    "flac": ("flac", "flac", "s16", "audio/flac"),
    "opus": ("ogg", "libopus", "s16", "audio/ogg"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundFile:
    """An encoded sound."""

    data: bytes
    media_type: str
    sample_rate: int
    duration: float  # seconds
    loudness: float | None  # LUFS; None: too short or too quiet to be measured


def encode(wave: np.ndarray, rate: int, form: Format) -> SoundFile:
    """Return a mono sound, float32 [frames], as a file of a usual loudness."""
    loud = at_usual_loudness(wave, rate)
    written, file_rate = (resampled(loud, rate, _OPUS_RATE), _OPUS_RATE) if form == "opus" else (loud, rate)
    return SoundFile(
        data=_encoded(written, file_rate, form),
        media_type=_CODECS[form][3],
        sample_rate=file_rate,
        duration=len(wave) / rate,
        loudness=measured(loud, rate),
    )


def at_usual_loudness(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return a sound at -14 LUFS, or less loud where its peaks would exceed -1 dBFS. Silence stays silent.

    A constant part, which cannot be heard, is removed: it would count as a peak.
    """
    wave = np.nan_to_num(wave.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    wave = wave - wave.mean()
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0:
        return wave
    loudness = measured(wave, rate)
    gain = _MAX_PEAK / peak if loudness is None else min(10 ** ((TARGET_LUFS - loudness) / 20), _MAX_PEAK / peak)
    return wave * np.float32(gain)


def measured(wave: np.ndarray, rate: int) -> float | None:
    """Return the integrated loudness in LUFS."""
    if len(wave) < int(_SHORTEST * rate) + 1:
        return None
    loudness = float(pyloudnorm.Meter(rate).integrated_loudness(wave.astype(np.float64)))
    return round(loudness, 2) if np.isfinite(loudness) else None


def _encoded(wave: np.ndarray, rate: int, form: Format) -> bytes:
    container, codec, layout_format, _media_type = _CODECS[form]
    numbers = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono", format=layout_format)
        frame = av.AudioFrame.from_ndarray(numbers[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for piece in (frame, None):
            for packet in stream.encode(piece):
                file.mux(packet)
    return target.getvalue()
