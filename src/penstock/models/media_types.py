"""The media type of a file whose sender did not know it: ``curl -F`` and others say application/octet-stream then."""

from __future__ import annotations

import mimetypes
from typing import Final

UNKNOWN: Final = "application/octet-stream"

_BY_NAME: Final = mimetypes.MimeTypes(filenames=())  # the standard library's own table, whatever the system has
_BY_NAME.add_type("application/x-npy", ".npy")
_BY_NAME.add_type("image/webp", ".webp")
_BY_NAME.add_type("audio/flac", ".flac")
_BY_NAME.add_type("audio/ogg", ".ogg")
_BY_NAME.add_type("audio/opus", ".opus")
_BY_NAME.add_type("audio/mp4", ".m4a")
_BY_NAME.add_type("audio/wav", ".wav")

_BY_FIRST_BYTES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\x93NUMPY", "application/x-npy"),
    (b"%PDF-", "application/pdf"),
)
_IN_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}


def told(stated: str | None, data: bytes, name: str | None = None) -> str:
    """The stated type; where that says nothing, the type by the file's name, or by its first bytes."""
    if stated and stated != UNKNOWN:
        return stated
    by_name, compressed = _BY_NAME.guess_type(name) if name else (None, None)
    if by_name is not None and compressed is None:
        return by_name
    for first, media_type in _BY_FIRST_BYTES:
        if data.startswith(first):
            return media_type
    if data[:4] == b"RIFF":
        return _IN_RIFF.get(data[8:12], UNKNOWN)
    return UNKNOWN
