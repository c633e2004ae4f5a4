"""Media types of data objects, and headers for sound that has none."""

from __future__ import annotations

import re
import struct
from typing import Final

from penstock.athena.protocol.data import DataObject, DataType, Scalar
from penstock.models import media_types

_BY_ENCODING: Final = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "lame": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/opus",
    "ogg": "audio/ogg",
    "aac": "audio/aac",
    "amr": "audio/amr",
    "m4a": "audio/mp4",
    "mp4": "video/mp4",
    "h264": "video/h264",
    "avi": "video/x-msvideo",
    "webm": "video/webm",
    "pdf": "application/pdf",
}
_ENCODINGS: Final = {
    "image/jpeg": "jpg",
    "audio/mpeg": "mp3",
    "audio/x-wav": "wav",
    "audio/mp4": "m4a",
    "video/x-msvideo": "avi",
}
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}")
_SAMPLES: Final = frozenset({"raw", "pcm", ""})  # encodings of sound without a header
_RATE_IN_FORMAT: Final = re.compile(r"audio/L(?P<bits>8|16|24|32)(?:;\s*rate=(?P<rate>\d{4,6}))?", re.IGNORECASE)


def media_type_of(one: DataObject) -> str:
    """Return the media type of a data object: the one that it states, or that its bytes or its encoding show."""
    stated = one.attributes.get("media_type")
    if isinstance(stated, str) and _MEDIA_TYPE.fullmatch(stated):
        return stated
    encoding = one.attributes.get("encoding")
    known = _BY_ENCODING.get(encoding.lower()) if isinstance(encoding, str) else None
    found = media_types.by_first_bytes(one.data) or known
    if found is not None:
        return found
    if one.type is DataType.TEXT:
        return "text/plain"
    if one.type is DataType.OTHER:
        return media_types.UNKNOWN
    return f"{one.type.value}/x-raw"


def type_of(media_type: str) -> DataType:
    """Return the type of data object that holds media of that type."""
    kind = media_type.partition("/")[0].lower()
    return DataType(kind) if kind in {"text", "audio", "image", "video"} else DataType.OTHER


def encoding_of(media_type: str) -> str:
    """Return how an ``encoding`` states a media type: ``jpg``, ``png``, ``wav``."""
    lowered = media_type.lower()
    return _ENCODINGS.get(lowered) or lowered.partition("/")[2].removeprefix("x-")


def with_wave_header(one: DataObject) -> bytes:
    """Return the data of sound; samples whose rate is stated, as ``sample_rate`` or in ``format``, as a wav file."""
    if one.type is not DataType.AUDIO or str(one.attributes.get("encoding", "")).lower() not in _SAMPLES:
        return one.data
    if media_types.by_first_bytes(one.data) is not None:
        return one.data
    stated = _RATE_IN_FORMAT.match(str(one.attributes.get("format", "")))
    rate = _number(one.attributes.get("sample_rate"), int(stated["rate"] or 16_000) if stated else 0)
    bits = _number(one.attributes.get("bit_depth"), int(stated["bits"]) if stated else 16)
    channels = _number(one.attributes.get("channels"), 1)
    if not (1_000 <= rate <= 384_000 and bits in {8, 16, 24, 32} and 1 <= channels <= 8):
        return one.data
    frame = channels * bits // 8
    size = len(one.data) // frame * frame
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * frame, frame, bits,
        b"data", size,
    )  # fmt: skip
    return head + one.data[:size]


def _number(value: Scalar | None, default: int) -> int:
    if isinstance(value, bool) or value is None:
        return default
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 8 else 0
    return int(value) if 0 <= value < 10_000_000 else 0
