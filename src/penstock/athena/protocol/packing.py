"""Encodings of data: base64, gzip and character sets, each in both directions and with a bound."""

from __future__ import annotations

import gzip
import zlib
from typing import Final

from penstock.models.replica import base64_text

_CHARACTER_SETS: Final = {
    "utf8": "utf-8",
    "utf-8": "utf-8",
    "gb2312": "gb18030",  # a superset; clients that state gb2312 send characters of gbk too
    "gbk": "gb18030",
    "gb18030": "gb18030",
}
_LINE_BREAKS: Final = {10: None, 13: None}
_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_BEGINS: Final = b"\x1f\x8b"
_MAX_MEMBERS: Final = 16  # concatenated files in one piece of gzip data


class Undecodable(ValueError):
    """Data that is not what its attributes state; the message completes "the field …"."""


def from_base64(text: str) -> bytes:
    """Return the bytes of standard base64 with its padding; line breaks are allowed. Raises Undecodable."""
    if "\n" in text or "\r" in text:
        text = text.translate(_LINE_BREAKS)
    try:
        return base64_text.decoded(text)
    except ValueError:
        raise Undecodable("must be base64 (RFC 4648 §4, with padding)") from None


def is_gzip(data: bytes) -> bool:
    """Return whether data begins as gzip does."""
    return data.startswith(_GZIP_BEGINS)


def from_gzip(data: bytes, max_bytes: int) -> bytes:
    """Return what gzip data holds, of one or several members. Raises Undecodable when it exceeds ``max_bytes``."""
    pieces: list[bytes] = []
    left = max_bytes
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        try:
            piece = member.decompress(data, left + 1)
        except zlib.error:
            raise Undecodable("states compress gzip, but holds no valid gzip data") from None
        left -= len(piece)
        if left < 0:
            raise Undecodable(f"unpacks to more than the {max_bytes} bytes that are allowed")
        if not member.eof:
            raise Undecodable("states compress gzip, but its gzip data is cut short")
        pieces.append(piece)
        data = member.unused_data
        if not data:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    raise Undecodable(f"has more than {_MAX_MEMBERS} gzip members")


def to_gzip(data: bytes) -> bytes:
    """Return data as gzip; equal data gives equal bytes."""
    return gzip.compress(data, 6, mtime=0)


def character_set(encoding: object) -> str | None:
    """Return Python's name of a text encoding that messages may state; None for one that is not converted."""
    return _CHARACTER_SETS.get(encoding.lower()) if isinstance(encoding, str) else None


def to_utf8(data: bytes, encoding: object) -> bytes:
    """Return text as UTF-8; unchanged when its encoding is not stated or not converted here. Raises Undecodable."""
    name = character_set(encoding)
    if name is None:
        return data
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        raise Undecodable(f"states encoding {encoding}, but is not valid {encoding}") from None
    return data if name == "utf-8" else text.encode()


def from_utf8(data: bytes, encoding: object) -> bytes:
    """Return UTF-8 text in that encoding; unchanged where it is not UTF-8 or the encoding is not converted here."""
    name = character_set(encoding)
    if name is None or name == "utf-8":
        return data
    try:
        return data.decode().encode(name)
    except UnicodeError:
        return data
