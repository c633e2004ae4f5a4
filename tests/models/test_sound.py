"""``Audio.samples``: sound of every format as numbers."""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from penstock import Audio, BadInput
from tests.support.processes import clean_environment

SECONDS = 1.5
FORMATS = {  # media type → FFmpeg's container and codec, rate
    "audio/wav": ("wav", "pcm_s16le", 44_100),
    "audio/x-wav": ("wav", "pcm_f32le", 22_050),
    "audio/vnd.wave": ("wav", "pcm_mulaw", 8_000),
    "audio/mpeg": ("mp3", "mp3", 44_100),
    "audio/flac": ("flac", "flac", 44_100),
    "audio/ogg": ("ogg", "vorbis", 44_100),
    "audio/opus": ("ogg", "libopus", 48_000),
    "audio/mp4": ("ipod", "aac", 44_100),
    "audio/webm": ("webm", "libopus", 48_000),
}


def tone(container: str, codec: str, rate: int) -> bytes:
    """Return sound in stereo, the second channel silent, written by FFmpeg."""
    encoded = io.BytesIO()
    with av.open(encoded, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="stereo", options={"strict": "experimental"})
        for start in range(0, int(rate * SECONDS), 1024):
            count = min(1024, int(rate * SECONDS) - start)
            numbers = np.zeros((1, 2 * count), "<i2")
            numbers[0, ::2] = 16_000 * np.sin(2 * np.pi * 440 * (start + np.arange(count)) / rate)
            frame = av.AudioFrame.from_ndarray(numbers, "s16", "stereo")
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return encoded.getvalue()


@pytest.mark.parametrize("media_type", FORMATS)
def test_samples_of_every_format_that_transcription_takes(media_type: str) -> None:
    """The samples have the rate, the channels and the loudness of the recording."""
    _, _, rate = FORMATS[media_type]
    samples, found = Audio(tone(*FORMATS[media_type]), media_type).samples()
    assert samples.dtype == np.float32
    assert (found, samples.shape[1]) == (rate, 2)
    assert samples.shape[0] == pytest.approx(rate * SECONDS, rel=0.06)
    left, right = samples[:, 0], samples[:, 1]
    assert np.sqrt(np.mean(2 * left**2)) == pytest.approx(16_000 / 2**15, rel=0.15)
    assert np.abs(right).max() < 0.05
    strongest = np.abs(np.fft.rfft(left)).argmax() * rate / len(left)
    assert strongest == pytest.approx(440, rel=0.02)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_every_width_is_read(width: int) -> None:
    full = 2 ** (8 * width - 1)
    encoded = io.BytesIO()
    with wave.open(encoded, "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        for number in (0, full // 2, -full, full - 1):
            shifted = number + 128 if width == 1 else number
            file.writeframes(shifted.to_bytes(width, "little", signed=width > 1))
    samples, rate = Audio(encoded.getvalue()).samples()
    assert samples.dtype == np.float32
    assert (samples.shape, rate) == ((2, 2), 8000)
    assert samples.ravel() == pytest.approx([0, 0.5, -1, 1], abs=0.01)


def test_samples_come_back_from_wav() -> None:
    given = np.sin(np.linspace(0, 50, 4000))
    samples, rate = Audio.of_samples(given, 16_000).samples()
    assert (samples.shape, rate) == ((4000, 1), 16_000)
    assert np.abs(samples[:, 0] - given).max() < 1e-4
    loud, _ = Audio.of_samples(np.array([[9.0, float("nan")]]), 8000).samples()
    assert loud.tolist() == [[pytest.approx(1, abs=1e-4), 0.0]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"OggS" + bytes(100),
        b"ID3",
        b"\xff\xfb\x90\0" + bytes(3000),
        b"#EXTM3U\nx.wav",
    ],
)
def test_a_file_that_is_not_sound_is_the_callers_fault(data: bytes) -> None:
    with pytest.raises(BadInput, match="the audio/wav cannot be read"):
        Audio(data).samples()


def test_a_file_that_ends_early_gives_what_it_holds() -> None:
    whole = tone(*FORMATS["audio/mpeg"])
    samples, _ = Audio(whole[: len(whole) // 2], "audio/mpeg").samples()
    assert 0.2 * 44_100 * SECONDS < len(samples) < 0.8 * 44_100 * SECONDS


def test_sound_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may promise hours of silence."""
    monkeypatch.setattr("penstock.models.replica.contract.sound._MAX_BYTES", 2**16)
    with pytest.raises(BadInput, match="its samples take more than"):
        Audio(tone(*FORMATS["audio/flac"]), "audio/flac").samples()


def test_a_model_needs_no_decoder_until_it_decodes(tmp_path: Path) -> None:
    """An interpreter without PyAV and Pillow reads wav; the error for other formats says what to install."""
    (tmp_path / "a.wav").write_bytes(Audio.of_samples(np.zeros(10), 8000).data)
    (tmp_path / "a.mp3").write_bytes(tone(*FORMATS["audio/mpeg"]))
    code = """
import sys
from pathlib import Path
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"av", "PIL"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from penstock import Audio, Image
print(Audio(Path("a.wav").read_bytes()).samples()[1])
for act in (lambda: Audio(Path("a.mp3").read_bytes(), "audio/mpeg").samples(), lambda: Image(b"x").open()):
    try:
        act()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True
    )
    rate, sound, pictures = done.stdout.splitlines()
    assert rate == "8000"
    assert "pip install av" in sound
    assert 'pip install "penstock[media]"' in pictures
