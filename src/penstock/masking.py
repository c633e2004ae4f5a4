"""Mask known secrets in logs, errors and responses."""

from __future__ import annotations

import hmac
import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote

MASK: Final = "******"
_HEX: Final = re.compile(r"\\u[0-9a-f]{4}")
_SHORTEST_BASE64: Final = 10  # characters
_URL_SAFE: Final = str.maketrans("+/", "-_")
SHORTEST: Final = 4  # characters; masking shorter ones would make texts unreadable


_PASSWORD_PARAMETER: Final = re.compile(r"(?i)([?&](?:[\w-]*(?:password|passwd|token|secret|key))=)([^&#]*)")


class Secret:
    """A text that is never printed by accident: only ``reveal`` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


class Masker:
    """Replaces known secrets, the longest first, because one may be part of another."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these as well, from now on."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= SHORTEST)}
        self._secrets = sorted(known, key=len, reverse=True)
        self._first_letters = {secret[0] for secret in known}
        self._encoded = [secret.encode() for secret in self._secrets]
        self._longest = max(map(len, known), default=0)

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def text(self, text: str) -> str:
        """Return ``text`` with the secrets masked."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def value(self, value: Any) -> Any:
        """Return the JSON value with secrets masked, and without U+0000, which PostgreSQL cannot store."""
        match value:
            case str():
                return self.text(value.replace("\0", ""))
            case list():
                return [self.value(one) for one in value]
            case dict():
                return {self.value(name): self.value(one) for name, one in value.items()}
            case _:
                return value

    def within(self, data: bytes) -> bool:
        """Return whether UTF-8 text contains one of the secrets unchanged."""
        return any(secret in data for secret in self._encoded)

    def unfinished(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a secret."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._first_letters:
                end = text[start:]
                if any(secret.startswith(end) for secret in self._secrets):
                    return len(end)
        return 0

    def before_any(self, text: str, cut: int) -> int:
        """Return ``cut``, or the start of the secret that a cut there would divide."""
        divided = True
        while divided:
            divided = False
            for secret in self._secrets:
                start = text.find(secret, max(0, cut - len(secret) + 1), cut + len(secret) - 1)
                if 0 <= start < cut < start + len(secret):
                    cut, divided = start, True
        return cut


class MaskedStream:
    """Masks a text that arrives in pieces, and holds the possible beginning of a secret until the next piece."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = ""

    def feed(self, piece: str) -> str:
        """Add a piece and return what can be shown now."""
        text = self._held + piece
        cut = self._masker.before_any(text, len(text) - self._masker.unfinished(text))
        self._held = text[cut:]
        return self._masker.text(text[:cut])

    def end(self) -> str:
        """Return the held text, masked: no more pieces follow."""
        held, self._held = self._held, ""
        return self._masker.text(held)


def spelled(secrets: Iterable[str]) -> set[str]:
    """Return secrets in the spellings in which a server may echo them: in a URL, in JSON, in a page, in base64."""
    known = set(secrets)
    encoded = {spelling for secret in known for spelling in _in_base64(secret)}
    known |= {unquote(secret) for secret in known} | {quote(secret, safe="") for secret in known}
    known |= {json.dumps(secret, ensure_ascii=False)[1:-1] for secret in known}
    escaped = {json.dumps(secret)[1:-1] for secret in known}  # as servers write letters beyond ASCII
    known |= escaped | {_HEX.sub(lambda match: match[0].upper().replace("U", "u"), one) for one in escaped}
    return known | {html.escape(secret) for secret in known} | encoded


def _in_base64(secret: str) -> Iterator[str]:
    """Yield the base64 forms of a secret inside a longer text, one for each of the three offsets at which it may begin.
    Each form holds only the characters that depend on nothing but the secret. Short secrets yield none, because their
    forms would occur in other texts by chance."""
    data = secret.encode()
    for offset in range(3):
        start, end = -(-8 * offset // 6), 8 * (offset + len(data)) // 6
        core = b64encode(bytes(offset) + data).decode()[start:end]
        if len(core) >= _SHORTEST_BASE64:
            yield core
            yield core.translate(_URL_SAFE)


def is_distinctive(secret: str) -> bool:
    """Return whether a secret is too unusual to occur by chance, as ``anything`` or ``transcribe`` would."""
    return len(secret) >= 16 or (len(secret) >= 8 and not secret.isalpha())


def mask_url(url: str) -> str:
    """Return ``url`` without its password, and over HTTP without its user name, which is often a key."""
    masked = _PASSWORD_PARAMETER.sub(rf"\1{MASK}", url)
    scheme, separator, rest = masked.partition("://")
    user, at, host = rest.rpartition("@")  # the last one: a password may hold an unescaped @
    if not at:
        return masked
    name, colon, _ = user.partition(":")
    shown = f"{name}{colon}{MASK if colon else ''}" if scheme.startswith("postgres") else MASK
    return f"{scheme}{separator}{shown}@{host}"


def secrets_of_url(url: str) -> Iterator[str]:
    """Return the password of a URL, both as written and unquoted, and the parameters that ``mask_url`` masks."""
    user, at, _ = url.partition("://")[2].rpartition("@")
    password = user.partition(":")[2] if at else ""
    yield from {part for part in (password, unquote(password)) if part}
    yield from (found for _, found in _PASSWORD_PARAMETER.findall(url) if found)
