"""Recordings that tests make."""

from __future__ import annotations

import base64
import math
import shutil
import struct
import subprocess
import wave
from pathlib import Path

import av

from penstock.recordings import formats
from penstock.recordings.recording import Recording

TEXT = "The quick brown fox jumps over the lazy dog."


RATE = 4000


def spoken(path: Path, text: str = TEXT) -> Path:
    """Return a wav in which espeak-ng speaks the text; without espeak-ng, a tone of two seconds."""
    program = shutil.which("espeak-ng")
    if program is not None:
        subprocess.run([program, "-w", str(path), text], check=True, timeout=30)
        return path
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        samples = (round(9000 * math.sin(number / 8)) for number in range(32_000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


def encoded(wav: Path, to: Path, codec: str, rate: int = 16_000) -> Path:
    """Return the same sound in another format, given by the file's name."""
    layout = "stereo" if codec == "vorbis" else "mono"  # the only format of FFmpeg's own encoder
    with av.open(str(wav)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(stream.format, layout, rate, stream.frame_size or None)
        for frame in [*source.decode(audio=0), None]:
            for part in resampler.resample(frame):
                target.mux(stream.encode(part))
        target.mux(stream.encode(None))
    return to


def recorded(path: Path, loudness: list[tuple[float, int]]) -> Recording:
    """Write a wav file of tones, each with its length in seconds and its loudness."""
    samples: list[int] = []
    for seconds, loud in loudness:
        samples += [round(loud * math.sin(number)) for number in range(round(seconds * RATE))]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return Recording(
        path=path,
        format=formats.WAV,
        codec="pcm_s16le",
        media_type="audio/wav",
        size_bytes=path.stat().st_size,
        duration_seconds=len(samples) / RATE,
        sample_rate=RATE,
        channels=1,
    )


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
