"""Decode one untrusted file, in a separate process with tight limits.

    python -I decoder.py '{"path": …, "format": …, "max_seconds": …, "cpu_seconds": …, "memory_bytes": …}'

With ``output`` and ``rate`` it also writes a 16-bit mono wav. Prints one line of JSON: the properties of the recording,
``{"error": …}`` if the file is unusable, or ``{"failed": …}`` if the output cannot be written. Imports only the
standard library and, once its limits are in effect, PyAV.

FFmpeg is confined to the one reader that the caller names, so that it cannot open a playlist and through it other
files; to the protocol ``file``; and to a few decoders.
"""

from __future__ import annotations

import json
import resource
import sys
import wave
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_SPARE_BYTES: Final = 2**20  # bytes that may be written beyond the longest output
MAX_CHANNELS: Final = 64
MAX_HERTZ: Final = 768_000

# FFmpeg's other decoders serve other purposes than recordings, and are reviewed less.
CODECS: Final = frozenset(
    {
        "aac",
        "aac_latm",
        "ac3",
        "adpcm_ima_qt",
        "adpcm_ima_wav",
        "adpcm_ms",
        "alac",
        "eac3",
        "flac",
        "gsm_ms",
        "mp1",
        "mp1float",
        "mp2",
        "mp2float",
        "mp3",
        "mp3float",
        "libopus",
        "libvorbis",
        "opus",
        "pcm_alaw",
        "pcm_f32be",
        "pcm_f32le",
        "pcm_f64be",
        "pcm_f64le",
        "pcm_mulaw",
        "pcm_s16be",
        "pcm_s16le",
        "pcm_s24be",
        "pcm_s24le",
        "pcm_s32be",
        "pcm_s32le",
        "pcm_s8",
        "pcm_u8",
        "vorbis",
    }
)


class Unusable(Exception):
    """The file cannot be used; the message states the reason for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The file to decode, the output to write, and the limits."""

    path: str
    format: str  # FFmpeg's name of the reader
    max_seconds: float
    cpu_seconds: int
    memory_bytes: int
    output: str | None = None
    rate: int = 16_000  # of the output, in hertz


def confine(arguments: Arguments) -> None:
    """Give up rights that decoding does not need; limits that the system does not support are skipped."""
    length = _SPARE_BYTES + (int(arguments.max_seconds * arguments.rate * 2) if arguments.output else 0)
    for kind, most in (
        (resource.RLIMIT_AS, arguments.memory_bytes),
        (resource.RLIMIT_CPU, arguments.cpu_seconds),
        (resource.RLIMIT_FSIZE, length),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (bound, bound))


def decode(arguments: Arguments) -> dict[str, Any]:
    """Return the properties of the recording, and write the output if one is requested. Raises Unusable."""
    import av  # noqa: PLC0415 - once the limits hold
    import av.logging  # noqa: PLC0415

    av.logging.set_level(None)
    options = container_options(arguments.format)
    try:
        with av.open(
            f"file:{arguments.path}", "r", format=arguments.format, container_options=options, metadata_errors="replace"
        ) as container:
            return _read(container, arguments)
    except av.error.FFmpegError as error:
        raise Unusable(f"is not audio that can be read: {error.strerror}") from None


def container_options(reader: str) -> dict[str, str]:
    """Return options that confine FFmpeg to the reader of that name, the protocol ``file`` and a few decoders."""
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": "wav,mp3,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
        "codec_whitelist": ",".join(sorted(CODECS)),
    }
    if reader == "mp4":  # no samples from other files
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    return options


def _read(container: InputContainer, arguments: Arguments) -> dict[str, Any]:
    stream: AudioStream | None = next(iter(container.streams.audio), None)
    if stream is None:
        raise Unusable("has no audio track")
    codec = getattr(stream.codec_context, "name", "unknown")  # FFmpeg may have none for it
    if codec not in CODECS:
        raise Unusable(f"is not audio that can be read: its codec ({codec}) is not supported")
    stream.codec_context.thread_count = 1  # more threads take more memory, not less time
    with ExitStack() as stack:
        output = None if arguments.output is None else stack.enter_context(_Output(arguments.output, arguments.rate))
        measure = _Measure(arguments.max_seconds, output)
        _feed(container, stream, measure)
        if output is not None:
            output.finish()
    if not measure.seconds:
        raise Unusable("is not audio that can be read: it holds no sound")
    return {
        "duration_seconds": round(measure.seconds if output is None else output.seconds, 6),
        "codec": codec,
        "sample_rate": measure.rate if output is None else arguments.rate,
        "channels": measure.channels if output is None else 1,
        "format": container.format.name,
    }


def _feed(container: InputContainer, stream: AudioStream, measure: _Measure) -> None:
    """Pass every frame of a stream to ``measure``. Broken ones are left out, as players do, unless most are broken."""
    import av  # noqa: PLC0415

    good = bad = 0
    packets = iter(container.demux(stream))
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file ends in the middle, or other data follows
            bad += 1
            break
        if packet is None:
            break
        try:
            for frame in packet.decode():
                measure.take(frame)
                good += 1
        except av.error.FFmpegError:
            bad += 1
    if bad > good:
        raise Unusable("is not audio that can be read: most of it is broken")


class _Measure:
    """Measures decoded sound by its samples, because headers and timestamps cannot be trusted."""

    def __init__(self, max_seconds: float, output: _Output | None) -> None:
        self.seconds = 0.0
        self.rate = 0
        self.channels = 0
        self._max_seconds = max_seconds
        self._output = output

    def take(self, frame: AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if not 1 <= rate <= MAX_HERTZ or not 1 <= channels <= MAX_CHANNELS:
            raise Unusable(f"is not audio that can be read: {channels} channels at {rate} Hz")
        self.rate, self.channels = self.rate or rate, self.channels or channels
        self.seconds += frame.samples / rate
        if self.seconds > self._max_seconds:
            raise Unusable(f"is longer than {self._max_seconds:g} seconds")
        if self._output is not None:
            self._output.take(frame)


class _Output:
    """A wav of 16 bits and one channel."""

    def __init__(self, path: str, rate: int) -> None:
        self._samples = 0
        self._rate = rate
        self._like: tuple[object, ...] = ()
        self._resampler: AudioResampler | None = None
        self._file = wave.open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(rate)

    @property
    def seconds(self) -> float:
        return self._samples / self._rate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def take(self, frame: AudioFrame) -> None:
        """Convert a frame; a file may change its rate or channels in the middle."""
        from av import AudioResampler  # noqa: PLC0415

        like = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._resampler is None or like != self._like:
            self.finish()
            self._like, self._resampler = like, AudioResampler("s16", "mono", self._rate)
        frame.pts = None  # its timestamp is not trusted
        self._write(self._resampler.resample(frame))

    def finish(self) -> None:
        """Write what the converter still holds."""
        if self._resampler is not None:
            self._write(self._resampler.resample(None))
            self._resampler = None

    def _write(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._file.writeframesraw(bytes(frame.planes[0])[: 2 * frame.samples])
            self._samples += frame.samples


def main() -> None:
    arguments = Arguments(**json.loads(sys.argv[1]))
    confine(arguments)
    try:
        report = decode(arguments)
    except Unusable as error:
        report = {"error": str(error)}
    except MemoryError:
        report = {"error": "needs too much memory to be read"}
    except OSError as error:  # the output cannot be written, which is not the file's fault
        report = {"failed": error.strerror}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
