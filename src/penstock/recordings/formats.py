"""The formats of recordings, and their detection by the first bytes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HEAD_BYTES: Final = 64 * 1024  # the first bytes of a file that are enough to detect its format


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: its name, the name of FFmpeg's reader for it, and its media types and extension."""

    name: str
    demuxer: str
    media_type: str
    extension: str  # with the dot


WAV: Final = Format(name="wav", demuxer="wav", media_type="audio/wav", extension=".wav")
MP3: Final = Format(name="mp3", demuxer="mp3", media_type="audio/mpeg", extension=".mp3")
FLAC: Final = Format(name="flac", demuxer="flac", media_type="audio/flac", extension=".flac")
OGG: Final = Format(name="ogg", demuxer="ogg", media_type="audio/ogg", extension=".ogg")
OPUS: Final = Format(name="opus", demuxer="ogg", media_type="audio/ogg; codecs=opus", extension=".opus")
M4A: Final = Format(name="m4a", demuxer="mp4", media_type="audio/mp4", extension=".m4a")
WEBM: Final = Format(name="webm", demuxer="webm", media_type="audio/webm", extension=".webm")
FORMATS: Final = (WAV, MP3, FLAC, OGG, OPUS, M4A, WEBM)


def sniff(head: bytes, behind_tag: bytes = b"") -> Format | None:
    """Detect the format by a file's first bytes, whatever its name says; None if it is not supported.

    ``behind_tag`` holds the bytes that follow an ID3 tag longer than the head.
    """
    if b"fLaC" in {head[id3_length(head) :][:4], behind_tag[:4]}:
        return FLAC
    return next((found for test, found in _TESTS if test(head)), None)


def _is_wav(head: bytes) -> bool:
    return head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"} and head[8:12] == b"WAVE"


def _is_opus(head: bytes) -> bool:
    if not _is_ogg(head) or len(head) < 27:
        return False
    first_packet = 27 + head[26]  # after the page's header and its table of segments
    return head[first_packet : first_packet + 8] == b"OpusHead"


def _is_ogg(head: bytes) -> bool:
    return head.startswith(b"OggS\0")


def _is_m4a(head: bytes) -> bool:
    return head[4:8] == b"ftyp"


def _is_webm(head: bytes) -> bool:
    return head.startswith(b"\x1a\x45\xdf\xa3") and any(kind in head[:4096] for kind in (b"webm", b"matroska"))


def _is_mp3(head: bytes) -> bool:
    return head.startswith(b"ID3") or _is_mpeg_frame(head[:4])


def _is_mpeg_frame(head: bytes) -> bool:
    """Return whether this is the head of an MPEG audio frame: its sync, and no field with a reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, bitrate, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bitrate not in {0, 15} and rate != 3


def id3_length(head: bytes) -> int:
    """Return the length in bytes of an ID3 tag at the start; 0 if there is none."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    size = head[6:10]
    return 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])


_TESTS: Final[tuple[tuple[Callable[[bytes], bool], Format], ...]] = (
    (_is_wav, WAV),
    (_is_opus, OPUS),
    (_is_ogg, OGG),
    (_is_m4a, M4A),
    (_is_webm, WEBM),
    (_is_mp3, MP3),
)
