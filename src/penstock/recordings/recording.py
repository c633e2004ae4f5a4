"""Recordings: untrusted files that separate processes examine and convert."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.processes.binding import bound
from penstock.recordings import formats
from penstock.recordings.formats import Format

_DECODER: Final = Path(__file__).with_name("decoder.py")
_MAX_OUTPUT_BYTES: Final = 64 * 1024  # of the decoder's standard output
_NEEDED: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)  # the only variables of our environment that the decoder sees


class UnusableAudio(Exception):
    """A file that cannot be used as a recording. The message states why and continues the words "the file"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits for one file."""

    max_seconds: float = 4 * 3600.0  # of sound
    timeout: timedelta = timedelta(minutes=5)  # of decoding, and as much CPU time
    memory_bytes: int = 2 * 2**30


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording that was decoded to its end."""

    path: Path
    format: Format
    codec: str
    media_type: str
    size_bytes: int
    duration_seconds: float  # duration of the sound, counted by its samples
    sample_rate: int  # in hertz
    channels: int


class _DecoderOutput(msgspec.Struct):
    """The decoder's output."""

    error: str | None = None
    failed: str | None = None
    duration_seconds: float = 0.0
    codec: str = ""
    sample_rate: int = 0
    channels: int = 0


async def examine(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Recording:
    """Examine a file. Raises UnusableAudio, even if the file crashes its decoder."""
    size, head, behind_tag = await asyncio.to_thread(_begin, path)
    found = formats.sniff(head, behind_tag)
    if found is None:
        known = ", ".join(one.name for one in formats.FORMATS)
        raise UnusableAudio(f"is not audio that can be read: it begins like none of {known}")
    decoded = await _decode(path, found, limits)
    return _recording(path, found, size, decoded)


async def converted(
    recording: Recording, to: Path, *, rate: int = 16_000, limits: Limits = DEFAULT_LIMITS
) -> Recording:
    """Write the recording to ``to`` as a 16-bit mono wav of ``rate`` hertz; a failure leaves no file there.

    Raises UnusableAudio, or OSError when the file cannot be written.
    """
    if not 4_000 <= rate <= 192_000:
        raise ValueError(f"rate must be 4000 to 192000 hertz, not {rate}")
    try:
        decoded = await _decode(recording.path, recording.format, limits, output=to, rate=rate)
        size = (await asyncio.to_thread(to.stat)).st_size
    except BaseException:  # also when the caller is cancelled
        _remove(to)
        raise
    return _recording(to, formats.WAV, size, decoded, codec="pcm_s16le")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _recording(path: Path, found: Format, size: int, decoded: _DecoderOutput, *, codec: str | None = None) -> Recording:
    return Recording(
        path=path,
        format=found,
        codec=codec or decoded.codec,
        media_type=found.media_type,
        size_bytes=size,
        duration_seconds=decoded.duration_seconds,
        sample_rate=decoded.sample_rate,
        channels=decoded.channels,
    )


def _begin(path: Path) -> tuple[int, bytes, bytes]:
    """Return a file's size, its first bytes, and the bytes after a tag that is longer than those."""
    try:
        known = path.stat()
        if not stat.S_ISREG(known.st_mode):  # opening a pipe would wait for its writer
            raise UnusableAudio("is not a file")
        with path.open("rb") as file:
            head = file.read(formats.HEAD_BYTES)
            tag = formats.id3_length(head)
            behind_tag = b""
            if tag > len(head) - 4:
                file.seek(tag)
                behind_tag = file.read(4)
    except OSError as error:
        raise UnusableAudio(f"cannot be read: {error.strerror}") from error
    if not head:
        raise UnusableAudio("is empty")
    return known.st_size, head, behind_tag


def _arguments(path: Path, found: Format, limits: Limits, output: Path | None, rate: int) -> str:
    """Return the decoder's arguments."""
    arguments: dict[str, Any] = {
        "path": str(path.absolute()),
        "format": found.demuxer,
        "max_seconds": limits.max_seconds,
        "cpu_seconds": max(1, round(limits.timeout.total_seconds())),
        "memory_bytes": limits.memory_bytes,
    }
    if output is not None:
        arguments |= {"output": str(output.absolute()), "rate": rate}
    return msgspec.json.encode(arguments).decode()


async def _decode(
    path: Path, found: Format, limits: Limits, *, output: Path | None = None, rate: int = 16_000
) -> _DecoderOutput:
    """Run the decoder and read its output. When this returns or raises, the process has ended."""
    seconds = limits.timeout.total_seconds()
    process = await asyncio.create_subprocess_exec(
        # Isolated and run by its path, so that it imports none of our modules.
        *bound([sys.executable, "-I", str(_DECODER), _arguments(path, found, limits, output, rate)]),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            printed = await _printed_by(process)
    except TimeoutError:
        raise UnusableAudio(f"takes more than {seconds:g} seconds to be read") from None
    finally:
        await _end(process)
    try:
        decoded = msgspec.json.decode(printed, type=_DecoderOutput)
    except msgspec.MsgspecError:
        raise UnusableAudio(f"is not audio that can be read: its decoder {_how(process)}") from None
    if decoded.error is not None:
        raise UnusableAudio(decoded.error)
    if decoded.failed is not None:
        raise OSError(f"{output} cannot be written: {decoded.failed}")
    return decoded


async def _printed_by(process: Process) -> bytes:
    """Return the output of a process until it ends, cut to its limit."""
    stdout = process.stdout
    printed = b""
    while stdout is not None and len(printed) <= _MAX_OUTPUT_BYTES and (piece := await stdout.read(_MAX_OUTPUT_BYTES)):
        printed += piece
    if len(printed) <= _MAX_OUTPUT_BYTES:
        await process.wait()
    return printed


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def _how(process: Process) -> str:
    code = process.returncode
    return f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
