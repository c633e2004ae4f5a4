"""Detect the media type of a file whose sender stated none, or only application/octet-stream as ``curl -F`` does."""

from __future__ import annotations

import mimetypes
from typing import Final

UNKNOWN: Final = "application/octet-stream"

_BY_NAME: Final = mimetypes.MimeTypes(filenames=())  # the standard library's own table, without the system's files
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
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
    (b"#!AMR", "audio/amr"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"\x93NUMPY", "application/x-npy"),
    (b"%PDF-", "application/pdf"),
)
_IN_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS: Final = {
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"avif": "image/avif",
    b"heic": "image/heic",
}  # in "ftyp" boxes


def resolved(stated: str | None, data: bytes, name: str | None = None) -> str:
    """Return the stated media type; where that says nothing, the type by the file's name or its first bytes."""
    if stated and stated != UNKNOWN:
        return stated
    by_name, compressed = _BY_NAME.guess_type(name) if name else (None, None)
    if by_name is not None and compressed is None:
        return by_name
    return by_first_bytes(data) or UNKNOWN


def by_first_bytes(data: bytes) -> str | None:
    """Return the media type that a file's first bytes show; None where they show none."""
    for first, media_type in _BY_FIRST_BYTES:
        if data.startswith(first):
            return media_type
    if data[:4] == b"RIFF":
        return _IN_RIFF.get(data[8:12])
    if data[:4] == b"FORM" and data[8:12] in {b"AIFF", b"AIFC"}:
        return "audio/aiff"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video/mp4")
    return None
