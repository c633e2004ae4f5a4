"""Clean the names and media types of files that callers state, so that they can be stored and sent in headers."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote

from penstock.errors import InvalidInput

UNKNOWN: Final = "application/octet-stream"
_NAME_LENGTH: Final = 200  # letters
_LONGEST_SUFFIX: Final = 20
_LONGEST_TYPE: Final = 255

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf'{_WORD}/{_WORD}(?:[ \t]*;[ \t]*{_WORD}=(?:{_WORD}|"[ !#-\[\]-~]*"))*')
_UNSTATED: Final = frozenset({"", "application/x-www-form-urlencoded"})  # curl states the latter by itself


def media_type_of(stated: str | None) -> str:
    """Return a caller's media type, with its parameters. Raises InvalidInput for any other text."""
    text = (stated or "").strip()
    if text.lower() in _UNSTATED:
        return UNKNOWN
    if len(text) > _LONGEST_TYPE or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidInput.of("media_type", "must be a media type, such as audio/wav")
    return text


def filename_of(stated: str | None) -> str | None:
    """Return the last part of a path of any operating system, without control characters, or None if nothing is
    left."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", stated or ""))[-1]
    name = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C").strip()
    if not name.strip("."):
        return None
    if len(name) > _NAME_LENGTH:
        stem, dot, suffix = name.rpartition(".")
        ending = dot + suffix if stem and len(suffix) < _LONGEST_SUFFIX else ""
        name = name[: _NAME_LENGTH - len(ending)] + ending
    return name


def attachment(filename: str | None) -> bytes:
    """Return the Content-Disposition with which a browser stores a file and never shows it (RFC 6266)."""
    if filename is None:
        return b"attachment"
    plain = "".join(one if one.isascii() and one not in '"\\%' else "_" for one in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}".encode()
