"""The form of a key: ``ps_<id>_<secret><checksum>``.

The checksum detects typing mistakes, and texts that are not keys, without the database. It protects nothing: anyone can
compute it. The form follows that of GitHub's tokens, so that scanners for leaked secrets can recognise it.
"""

from __future__ import annotations

import re
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

from penstock.masking import Secret

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 43  # of base 62: at least 256 bits
_CHECKSUM_LENGTH: Final = 6
_FORM: Final = re.compile(rf"ps_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key as it is shown once, when it is created."""

    id: str
    text: Secret


def generate() -> NewKey:
    """Return a new random key."""
    key_id = _random(_ID_LENGTH)
    body = f"ps_{key_id}_{_random(_SECRET_LENGTH)}"
    return NewKey(id=key_id, text=Secret(body + _checksum(body)))


def id_of(text: str) -> str | None:
    """Return the id in a key; None if the text does not have the form of a key or its checksum is wrong."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        return None
    return match[1]


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62, with a fixed length."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
