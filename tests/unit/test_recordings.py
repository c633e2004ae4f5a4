"""Recordings of every format, and files that only resemble them, each decoded in a confined process."""

from __future__ import annotations

import array
import asyncio
import math
import os
import random
import struct
import wave
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import pytest

from penstock.recordings import formats
from penstock.recordings.recording import Limits, Recording, UnusableAudio, converted, examine
from tests.support.processes import children
from tests.support.waiting import until

SECONDS = 1.5
PLENTY = Limits(max_seconds=11 * 3600)
KINDS: dict[str, tuple[str, str, str, int]] = {  # file → format, FFmpeg's container and codec, rate
    "a.wav": ("wav", "wav", "pcm_s16le", 44_100),
    "a.mp3": ("mp3", "mp3", "mp3", 44_100),
    "a.flac": ("flac", "flac", "flac", 44_100),
    "a.ogg": ("ogg", "ogg", "vorbis", 44_100),
    "a.opus": ("opus", "ogg", "libopus", 48_000),
    "a.m4a": ("m4a", "ipod", "aac", 44_100),
    "a.webm": ("webm", "webm", "libopus", 48_000),
}


def tone(path: Path, container: str, codec: str, rate: int, *, seconds: float = SECONDS) -> Path:
    """Write a tone in stereo with FFmpeg."""
    with av.open(str(path), "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, options={"strict": "experimental"})
        for start in range(0, int(rate * seconds), 1024):
            count = min(1024, int(rate * seconds) - start)
            frame = av.AudioFrame("s16", "stereo", count)
            frame.sample_rate, frame.pts = rate, start
            wave_form = (round(8000 * math.sin((start + i) / 20)) for i in range(count) for _ in range(2))
            frame.planes[0].update(array.array("h", wave_form).tobytes())
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def silence(path: Path, *, hours: int) -> Path:
    """Write hours of silence in a few kilobytes."""
    count = 65_535  # samples in one frame: the maximum
    with av.open(str(path), "w", format="flac") as file:
        stream: Any = file.add_stream("flac", rate=8000, layout="mono", options={"frame_size": str(count)})
        frame = av.AudioFrame("s16", "mono", count)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        for number in range(hours * 3600 * 8000 // count):
            frame.pts = number * count
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def film(path: Path, *, sound: bool) -> Path:
    """Write a second of pictures, with or without sound."""
    with av.open(str(path), "w", format="mp4") as file:
        pictures: Any = file.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        tones: Any = file.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for _ in range(10):
            file.mux(pictures.encode(av.VideoFrame(32, 32, "yuv420p")))
        for number in range(16 if sound else 0):
            frame = av.AudioFrame("s16", "mono", 1000)
            frame.sample_rate, frame.pts = 16_000, 1000 * number
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            file.mux(tones.encode(frame))
        for stream in (pictures, tones) if sound else (pictures,):
            file.mux(stream.encode(None))
    return path


def plain_wav(path: Path, *, seconds: float = SECONDS, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * int(seconds * rate)))
    return path


def decoders() -> list[str]:
    return [line for line in children(os.getpid()).values() if "decoder.py" in line]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Check that no test leaves a process or an unfinished file."""
    yield
    assert decoders() == []
    if (tmp_path / "out.wav").exists():
        with wave.open(str(tmp_path / "out.wav")) as file:
            assert file.getnframes() > 0


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of ten hours."""
    return silence(tmp_path_factory.mktemp("long") / "long.flac", hours=10)


async def refused(path: Path, limits: Limits = PLENTY) -> str:
    with pytest.raises(UnusableAudio) as error:
        await examine(path, limits=limits)
    return str(error.value)


@pytest.mark.parametrize("name", KINDS)
async def test_each_format_is_examined_and_converted(tmp_path: Path, name: str) -> None:
    kind, container, codec, rate = KINDS[name]
    path = tone(tmp_path / name, container, codec, rate)
    found = await examine(path)
    assert (found.path, found.format.name, found.size_bytes) == (path, kind, path.stat().st_size)
    assert found.duration_seconds == pytest.approx(SECONDS, abs=0.1)
    assert (found.sample_rate, found.channels) == (rate, 2)
    assert found.media_type == found.format.media_type
    out = await converted(found, tmp_path / "out.wav")
    assert out == Recording(
        path=tmp_path / "out.wav",
        format=formats.WAV,
        codec="pcm_s16le",
        media_type="audio/wav",
        size_bytes=(tmp_path / "out.wav").stat().st_size,
        duration_seconds=out.duration_seconds,
        sample_rate=16_000,
        channels=1,
    )
    assert out.duration_seconds == pytest.approx(SECONDS, abs=0.1)
    with wave.open(str(out.path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        assert file.getnframes() == round(out.duration_seconds * 16_000)
        loudest = max(array.array("h", file.readframes(file.getnframes())))
    assert loudest > 4000, "the tone is in it"
    again = await examine(out.path)
    assert again.duration_seconds == pytest.approx(out.duration_seconds)
    assert again.sample_rate == 16_000


async def test_the_rate_may_be_chosen(tmp_path: Path) -> None:
    found = await examine(plain_wav(tmp_path / "a.wav"))
    out = await converted(found, tmp_path / "out.wav", rate=24_000)
    assert out.sample_rate == 24_000
    assert out.duration_seconds == pytest.approx(SECONDS, abs=0.1)
    with pytest.raises(ValueError, match="rate"):
        await converted(found, tmp_path / "out.wav", rate=1)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg", "a.opus", "a.webm"])
async def test_the_rest_of_a_truncated_file_is_used(tmp_path: Path, name: str) -> None:
    _, container, codec, rate = KINDS[name]
    path = tone(tmp_path / name, container, codec, rate, seconds=4)  # pages of ogg hold about a second
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = await examine(path)
    assert 0.8 < found.duration_seconds < 3.2
    out = await converted(found, tmp_path / "out.wav")
    assert out.duration_seconds == pytest.approx(found.duration_seconds, abs=0.1)


async def test_a_truncated_m4a_has_no_index_left(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.m4a", "ipod", "aac", 44_100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is not audio that can be read" in await refused(path)


async def test_an_empty_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert await refused(tmp_path / "empty.wav") == "is empty"
    assert "cannot be read" in await refused(tmp_path / "none.wav")
    assert await refused(tmp_path) == "is not a file"
    os.mkfifo(tmp_path / "pipe.wav")
    assert await refused(tmp_path / "pipe.wav") == "is not a file"
    plain_wav(tmp_path / "silent.wav", seconds=0)
    assert "holds no sound" in await refused(tmp_path / "silent.wav")


PRETENDERS = {
    "text.mp3": b"This is no music at all.\n" * 100,
    "list.m3u8": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "list.mp3": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n",
    "list.ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "list.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 1234 RTP/AVP 0\n",
    "picture.wav": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "half.wav": b"RIFF",
}


@pytest.mark.parametrize("name", PRETENDERS)
async def test_a_file_that_is_not_a_recording_reaches_no_decoder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PRETENDERS[name])
    assert formats.sniff(PRETENDERS[name]) is None
    assert "it begins like none of wav, mp3, flac" in await refused(tmp_path / name)


BEGINNINGS = {
    "wav": b"RIFF\xff\xff\xff\xffWAVEfmt ",
    "mp3": b"ID3\x04\0\0\0\0\0\0",
    "flac": b"fLaC\0\0\0\x22",
    "ogg": b"OggS\0\2" + bytes(20) + b"\x01\x1e\x01vorbis",
    "opus": b"OggS\0\2" + bytes(20) + b"\x01\x13OpusHead\x01\x02",
    "m4a": b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom",
    "webm": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm",
}


@pytest.mark.parametrize("name", BEGINNINGS)
async def test_a_valid_beginning_with_anything_after_it_is_refused(tmp_path: Path, name: str) -> None:
    """The rest is random bytes, a playlist, or nothing: no reader of these formats opens a playlist."""
    sniffed = formats.sniff(BEGINNINGS[name])
    assert sniffed is not None
    assert sniffed.name == name
    for behind in (random.Random(3).randbytes(50_000), b"\n#EXTM3U\nfile:///etc/passwd\n" * 50, b""):
        (tmp_path / "file").write_bytes(BEGINNINGS[name] + behind)
        assert "is not audio that can be read" in await refused(tmp_path / "file", Limits(max_seconds=10))


async def test_damaged_recordings_are_used_or_refused(tmp_path: Path) -> None:
    """Whatever bytes a recording holds, the decoder returns."""
    pick = random.Random(4)
    for name, (_, container, codec, rate) in KINDS.items():
        whole = tone(tmp_path / name, container, codec, rate, seconds=0.4).read_bytes()
        for _ in range(4):
            data = bytearray(whole)
            for _ in range(pick.randrange(1, 200)):
                data[pick.randrange(12, len(data))] = pick.randrange(256)
            (tmp_path / name).write_bytes(data)
            try:
                assert (await examine(tmp_path / name, limits=Limits(max_seconds=60))).duration_seconds < 60
            except UnusableAudio as error:
                assert "signal" not in str(error)  # noqa: PT017 - either is right


async def test_a_wav_that_claims_four_gigabytes_is_measured_by_its_samples(tmp_path: Path) -> None:
    path = plain_wav(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert (await examine(path)).duration_seconds == pytest.approx(SECONDS, abs=0.01)


async def test_absurd_rates_and_channels_are_refused(tmp_path: Path) -> None:
    for channels, rate in ((1, 1), (255, 8000), (1, 2**31 - 1), (1, 0), (0, 8000)):
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, channels, rate, 0, 2, 16, b"data", 0
        )
        (tmp_path / "a.wav").write_bytes(head[:-4] + struct.pack("<I", 2**17) + bytes(2**17))
        text = await refused(tmp_path / "a.wav", Limits(max_seconds=3600))
        assert "is longer than 3600 seconds" in text or "is not audio that can be read" in text


async def test_hours_in_a_few_kilobytes_are_refused_at_once(tmp_path: Path, long: Path) -> None:
    path = long
    assert path.stat().st_size < 100_000
    assert await refused(path, Limits(max_seconds=4 * 3600)) == "is longer than 14400 seconds"
    found = await examine(path, limits=PLENTY)
    assert found.duration_seconds == pytest.approx(36_000, abs=10)
    with pytest.raises(UnusableAudio, match="is longer than 60 seconds"):
        await converted(found, tmp_path / "out.wav", limits=Limits(max_seconds=60))
    assert not (tmp_path / "out.wav").exists()


async def test_the_sound_of_a_film_is_used(tmp_path: Path) -> None:
    assert await refused(film(tmp_path / "silent.mp4", sound=False)) == "has no audio track"
    found = await examine(film(tmp_path / "film.mp4", sound=True))
    assert (found.format, found.codec) == (formats.M4A, "aac")
    assert found.duration_seconds == pytest.approx(1.0, abs=0.1)


async def test_a_flac_after_an_id3_tag_is_decoded(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.flac", "flac", "flac", 44_100)
    path.write_bytes(b"ID3\x04\0\0\0\0\0\x05" + bytes(5) + path.read_bytes())
    assert (await examine(path)).duration_seconds == pytest.approx(SECONDS, abs=0.1)


async def test_a_decoder_that_takes_too_long_is_killed(tmp_path: Path, long: Path) -> None:
    path = long
    short = Limits(max_seconds=PLENTY.max_seconds, timeout=timedelta(milliseconds=20))
    assert "takes more than 0.02 seconds" in await refused(path, short)
    found = await examine(path, limits=PLENTY)
    with pytest.raises(UnusableAudio, match="takes more than"):
        await converted(found, tmp_path / "out.wav", limits=short)
    assert not (tmp_path / "out.wav").exists()


async def test_a_decoder_that_takes_too_much_memory_is_stopped(tmp_path: Path) -> None:
    path = plain_wav(tmp_path / "a.wav")
    for mebibytes in (1, 40, 120):
        limits = Limits(memory_bytes=mebibytes * 2**20)
        assert "its decoder" in (text := await refused(path, limits)) or "memory" in text


async def test_a_caller_that_leaves_ends_the_decoder(tmp_path: Path, long: Path) -> None:
    found = await examine(long, limits=PLENTY)
    task = asyncio.create_task(converted(found, tmp_path / "out.wav", limits=PLENTY))
    await until((tmp_path / "out.wav").exists, "it is being written")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoders() == []
    assert not (tmp_path / "out.wav").exists()


async def test_a_caller_may_leave_at_any_moment(tmp_path: Path, long: Path) -> None:
    path = long
    for steps in range(30):
        task = asyncio.create_task(examine(path, limits=PLENTY))
        for _ in range(steps):
            await asyncio.wait([task], timeout=0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert decoders() == []


async def test_an_output_that_cannot_be_written_is_not_a_mistake_in_the_input(tmp_path: Path) -> None:
    found = await examine(plain_wav(tmp_path / "a.wav"))
    with pytest.raises(OSError, match="cannot be written: No such file or directory"):
        await converted(found, tmp_path / "none" / "out.wav")


async def test_file_names_are_never_used_as_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.wav", "-i.wav", "pipe:0", 'a"b\n.wav', "ö %20.wav"):
        plain_wav(tmp_path / name)
        assert (await examine(Path(name))).duration_seconds == pytest.approx(SECONDS)


async def test_the_decoder_does_not_see_our_environment(
    tmp_path: Path, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of the decoder apply to its process alone."""
    monkeypatch.setenv("AI_SERVICE_TOKEN", "secret")
    found = await examine(long, limits=PLENTY)
    task = asyncio.create_task(converted(found, tmp_path / "out.wav", limits=PLENTY))
    await until((tmp_path / "out.wav").exists, "it is being written")
    (pid,) = [pid for pid, line in children(os.getpid()).items() if "decoder.py" in line]
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    bounds = Path(f"/proc/{pid}/limits").read_text()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"secret" not in environment
    for name, most in (("Max address space", 2 * 2**30), ("Max core file size", 0), ("Max cpu time", 300)):
        (line,) = [line for line in bounds.splitlines() if line.startswith(name)]
        assert str(most) in line.split(), line


def test_the_format_after_an_id3_tag_is_recognised() -> None:
    tag = b"ID3\x04\0\0\0\0\0\x05" + bytes(5)
    assert formats.sniff(tag + b"fLaC") == formats.FLAC
    long = b"ID3\x04\0\0\0\x7f\x7f\x7f" + bytes(100)
    assert formats.id3_length(long) > formats.HEAD_BYTES
    assert formats.sniff(long, b"fLaC") == formats.FLAC
    assert formats.sniff(long, b"\xff\xfb\x90\x00") == formats.MP3
    assert formats.sniff(tag + b"\xff\xfb\x90\x00") == formats.MP3
    assert formats.sniff(b"\xff\xfb\x90\x00") == formats.MP3
    assert formats.sniff(b"\xff\xff\xff\xff") is None
    assert formats.sniff(b"") is None
