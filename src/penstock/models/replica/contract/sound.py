"""Decode sound of every format that recordings may have, into samples.

PCM wav is read with the standard library; everything else with PyAV, which is imported when it is first needed.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from penstock.models.replica.contract.context import BadInput
from penstock.models.replica.contract.numbers import numpy_itself
from penstock.recordings import formats
from penstock.recordings.decoder import CODECS, MAX_CHANNELS, MAX_HERTZ, container_options

if TYPE_CHECKING:
    import numpy

_FULL_SCALE: Final = {1: 2**7, 2: 2**15, 3: 2**23, 4: 2**31}  # dtypes of a wav's samples, by their size in bytes
_MAX_BYTES: Final = 2**30  # of samples: a small file may decode to far more
Samples = tuple["numpy.ndarray", int]  # float32 [frames, channels] from -1.0 to 1.0, and frames per second


def samples_of(data: bytes, media_type: str) -> Samples:
    """Return the samples of a file: float32 [frames, channels] from -1.0 to 1.0, and its frames per second.

    Raises BadInput for what is not sound of a format that recordings may have, and ImportError without numpy, or
    without PyAV for other formats than PCM wav.
    """
    found = formats.sniff(data[: formats.HEAD_BYTES], _behind_tag(data))
    if found is None:
        known = ", ".join(one.name for one in formats.FORMATS)
        raise BadInput(f"the {media_type} cannot be read: it begins like none of {known}")
    if found is formats.WAV and (samples := _of_pcm_wav(data)) is not None:
        return samples
    return _decoded(data, found.demuxer, media_type)


def _behind_tag(data: bytes) -> bytes:
    tag = formats.id3_length(data)
    return data[tag : tag + 4]


def _of_pcm_wav(data: bytes) -> Samples | None:
    """Return the samples of a wav that holds plain integers; None for any other."""
    np = numpy_itself()
    try:
        with wave.open(io.BytesIO(data), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError, RuntimeError):
        return None
    if width not in _FULL_SCALE:
        return None
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        numbers = np.frombuffer(raw, dtype=np.uint8).astype(np.int32) - 128
    elif width == 3:  # three bytes become the upper ones of four
        wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
        numbers = wide.view("<i4").reshape(-1) >> 8
    else:
        numbers = np.frombuffer(raw, dtype=f"<i{width}")
    return (numbers.reshape(-1, channels) / _FULL_SCALE[width]).astype(np.float32), rate


def _decoded(data: bytes, reader: str, media_type: str) -> Samples:
    np, av = numpy_itself(), _av()
    try:
        with av.open(
            io.BytesIO(data), "r", format=reader, container_options=container_options(reader), metadata_errors="replace"
        ) as container:
            frames = _Frames(container, media_type)
            pieces = [frame.to_ndarray().reshape(-1, frames.channels) for frame in frames]
    except av.error.FFmpegError as error:
        raise BadInput(f"the {media_type} cannot be read: {error.strerror}") from None
    if not pieces:
        raise BadInput(f"the {media_type} cannot be read: it holds no sound")
    return np.concatenate(pieces).astype(np.float32, copy=False), frames.rate


class _Frames:
    """The frames of a file's first audio track as interleaved float32, all at the rate and channels of the first one.

    Frames that are broken are left out, as players do; a file of which most is broken is refused.
    """

    def __init__(self, container: Any, media_type: str) -> None:
        self.rate = 0
        self.channels = 0
        self._container = container
        self._what = f"the {media_type} cannot be read"
        self._layout = ""
        self._like: tuple[object, ...] = ()
        self._resampler: Any = None
        self._bytes = 0

    def __iter__(self) -> Iterator[Any]:
        stream = next(iter(self._container.streams.audio), None)
        if stream is None:
            raise BadInput(f"{self._what}: it has no audio track")
        codec = getattr(stream.codec_context, "name", "unknown")
        if codec not in CODECS:
            raise BadInput(f"{self._what}: its codec ({codec}) is not supported")
        for frame in self._decoded(stream):
            yield from self._converted(frame)
        if self._resampler is not None:
            yield from self._bounded(self._resampler.resample(None))

    def _decoded(self, stream: Any) -> Iterator[Any]:
        errors = _av().error.FFmpegError
        good = bad = 0
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else ()
            except errors:
                bad += 1
                if bad > good:
                    raise BadInput(f"{self._what}: most of it is broken") from None
                continue
            if packet is None:
                return
            good += len(frames)
            yield from frames

    def _converted(self, frame: Any) -> Iterator[Any]:
        """Convert a frame; a file may change its rate or channels in the middle."""
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if not 1 <= rate <= MAX_HERTZ or not 1 <= channels <= MAX_CHANNELS:
            raise BadInput(f"{self._what}: {channels} channels at {rate} Hz")
        if not self.rate:
            self.rate, self.channels, self._layout = rate, channels, frame.layout.name
        like = (rate, frame.format.name, frame.layout.name)
        if like != self._like:
            if self._resampler is not None:
                yield from self._bounded(self._resampler.resample(None))
            self._like, self._resampler = like, _av().AudioResampler("flt", self._layout, self.rate)
        frame.pts = None  # its timestamp is not trusted
        yield from self._bounded(self._resampler.resample(frame))

    def _bounded(self, frames: list[Any]) -> list[Any]:
        self._bytes += sum(4 * self.channels * frame.samples for frame in frames)
        if self._bytes > _MAX_BYTES:
            raise BadInput(f"{self._what}: its samples take more than {_MAX_BYTES >> 20} MiB")
        return frames


def _av() -> Any:
    try:
        import av  # noqa: PLC0415
        import av.logging  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("sound that is not PCM wav is decoded with PyAV: pip install av") from error
    av.logging.set_level(None)
    return av
