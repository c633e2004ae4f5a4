"""Files of sound, decoded and measured."""

from __future__ import annotations

import base64
import io
import math
import struct
import wave
from dataclasses import dataclass

import av
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is in a file of sound."""

    codec: str
    sample_rate: int
    seconds: float
    peak: float  # 1.0: full scale
    loud: float  # root of the mean square


def heard(data: bytes) -> Heard:
    """Decode a file as a player does."""
    with av.open(io.BytesIO(data), "r") as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono", stream.rate)
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
        return Heard(
            codec=stream.codec_context.name,
            sample_rate=stream.rate,
            seconds=len(samples) / stream.rate,
            peak=float(np.abs(samples).max()),
            loud=float(np.sqrt(np.mean(samples**2))),
        )


def data_of(url: str) -> bytes:
    """Return the bytes of a ``data:`` URL."""
    return base64.b64decode(url.partition(",")[2])


def tune(*hertz: float, rate: int = 22_050) -> bytes:
    """Return a wav with half a second of each tone."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        for tone in hertz:
            samples = (int(12_000 * math.sin(2 * math.pi * tone * index / rate)) for index in range(rate // 2))
            file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return target.getvalue()
