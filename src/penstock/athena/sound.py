"""Measure the sound in a message, for metering."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from penstock.athena.protocol.data import DataObject, DataType
from penstock.athena.protocol.media import with_wave_header

_HEADER_BYTES: Final = 44
_RATE_AT: Final = 28  # of the bytes per second, in a header of the usual form
_SAMPLES: Final = frozenset({"raw", "pcm", ""})
_DEFAULT_RATE: Final = 16_000
_DEFAULT_BYTES: Final = 2  # per sample


def audio_us(objects: Iterable[DataObject]) -> int:
    """Return the microseconds of sound in data objects.

    Sound of other encodings than samples and wav counts as 0: only decoding it would show its length.
    """
    return sum(_length(one) for one in objects if one.type is DataType.AUDIO)


def _length(one: DataObject) -> int:
    data = with_wave_header(one)
    if data.startswith(b"RIFF") and len(data) > _HEADER_BYTES:
        (rate,) = struct.unpack_from("<I", data, _RATE_AT)
        return (len(data) - _HEADER_BYTES) * 1_000_000 // rate if rate else 0
    if str(one.attributes.get("encoding", "")).lower() in _SAMPLES:
        return len(data) * 1_000_000 // (_DEFAULT_RATE * _DEFAULT_BYTES)
    return 0
