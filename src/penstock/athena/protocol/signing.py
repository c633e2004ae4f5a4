"""Signatures of requests by ``api_key`` and ``api_secret``.

A client signs the lines that it names, usually ``host``, ``date`` and ``request-line``::

    host: api.example.com
    date: Mon, 30 Nov 2026 08:00:00 GMT
    POST /v1/private/ocr HTTP/1.1

and sends ``api_key="…", algorithm="hmac-sha256", headers="host date request-line", signature="…"`` as
``authorization``, with ``host`` and ``date``, as parameters of the query (then usually in base64) or as headers. A
signature is valid for ``CLOCK_WINDOW`` before and after its date, and may be used again in that time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote

CLOCK_WINDOW: Final = timedelta(seconds=300)
MAX_CHARACTERS: Final = 4096  # of what a client sends as its authorization
_ALGORITHMS: Final = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha512": "sha512"}
_REQUEST_LINE: Final = "request-line"
_LINES: Final = frozenset({"host", "date", "x-date", _REQUEST_LINE, "digest"})
_FIELD: Final = re.compile(r'([a-zA-Z_-]{1,20})="([^"]{0,2000})"')
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")


class BadSignature(Exception):
    """A request's signature is not valid. ``status`` and the message are those of the response."""

    def __init__(self, message: str, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """What a client sends about its signature."""

    api_key: str
    algorithm: str  # of hashlib
    lines: tuple[str, ...]  # the names of the signed lines, in order
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """The parts of a request that can be signed. ``stated`` has the texts of lines, by name, as a client sent them."""

    method: str
    path: str  # as sent, percent-encoded
    query: str
    hosts: Sequence[str]  # by which the client may have addressed the server
    stated: Mapping[str, str]


def parse(text: str) -> Authorization:
    """Read an authorization, plain or in base64. Raises BadSignature."""
    if len(text) > MAX_CHARACTERS:
        raise BadSignature("HMAC signature cannot be verified: authorization is too long")
    fields = dict(_FIELD.findall(text)) or dict(_FIELD.findall(_decoded(text)))
    api_key = fields.get("api_key") or fields.get("username") or ""
    algorithm = _ALGORITHMS.get(fields.get("algorithm", "hmac-sha256").lower())
    lines = tuple(fields.get("headers", "host date request-line").lower().split())
    signature = _bytes(fields.get("signature", ""))
    if not _KEY.fullmatch(api_key) or signature is None:
        raise BadSignature("HMAC signature cannot be verified: api_key and signature are needed")
    if algorithm is None:
        raise BadSignature(f"HMAC signature cannot be verified: algorithm must be one of {', '.join(_ALGORITHMS)}")
    if _REQUEST_LINE not in lines or not {"date", "x-date"} & set(lines):
        raise BadSignature("HMAC signature cannot be verified: headers must name request-line and date")
    if not _LINES.issuperset(lines) or len(set(lines)) < len(lines):
        raise BadSignature(
            f"HMAC signature cannot be verified: headers may name {', '.join(sorted(_LINES))}, each once"
        )
    return Authorization(api_key=api_key, algorithm=algorithm, lines=lines, signature=signature)


def check_date(request: SignedRequest, authorization: Authorization, *, now: float) -> None:
    """Raise BadSignature unless a request was signed at most ``CLOCK_WINDOW`` before or after ``now`` (seconds since
    1970)."""
    problem = BadSignature(
        "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication", 403
    )
    for name in ("date", "x-date"):
        if name not in authorization.lines:
            continue
        try:
            signed_at = _seconds(request.stated.get(name, ""))
        except (ValueError, TypeError, OverflowError, IndexError):
            raise problem from None
        if not abs(now - signed_at) <= CLOCK_WINDOW.total_seconds():
            raise problem


def _seconds(date: str) -> float:
    """Return a date as seconds since 1970; one without a zone, or with ``-0000``, is in UTC."""
    found = parsedate_to_datetime(date)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def matches(request: SignedRequest, authorization: Authorization, secret: bytes) -> bool:
    """Return whether the holder of ``secret`` has signed a request, in a time that does not show where they differ."""
    for host in _hosts(request):
        for target in _targets(request):
            text = "\n".join(_line(name, request, host, target) for name in authorization.lines)
            expected = hmac.digest(secret, text.encode("utf-8", "replace"), authorization.algorithm)
            if hmac.compare_digest(expected, authorization.signature):
                return True
    return False


def digest_of(body: bytes) -> str:
    """Return the text of the line ``digest`` for a body."""
    return "SHA-256=" + b64encode(hashlib.sha256(body).digest()).decode()


def sign(
    secret: str,
    *,
    method: str,
    host: str,
    path: str,
    date: str,
    algorithm: str = "hmac-sha256",
) -> str:
    """Return the signature of the lines host, date and request-line, in base64."""
    text = f"host: {host}\ndate: {date}\n{method} {path} HTTP/1.1"
    return b64encode(hmac.digest(secret.encode(), text.encode(), _ALGORITHMS[algorithm])).decode()


def without_port(host: str) -> str:
    """Return a host as it is in a URL, without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _hosts(request: SignedRequest) -> list[str]:
    """Return the texts that the client may have signed as its host: the one that it states, if that is a name of this
    server, or each of the server's names, with and without its port."""
    names = {without_port(host).lower().strip("[]") for host in request.hosts}
    stated = request.stated.get("host")
    if stated is not None:
        return [stated] if without_port(stated).lower().strip("[]") in names or stated.lower() in names else []
    return list(dict.fromkeys(text for host in request.hosts for text in (host, without_port(host))))


def _targets(request: SignedRequest) -> list[str]:
    """Return the forms of path and query that clients sign: some sign the decoded path, some the whole target."""
    found = [request.path]
    if "%" in request.path:
        found.append(unquote(request.path))
    if request.query and "authorization=" not in request.query:  # a signature in the query cannot cover the query
        found.append(f"{request.path}?{request.query}")
    return found


def _line(name: str, request: SignedRequest, host: str, target: str) -> str:
    if name == _REQUEST_LINE:
        return f"{request.method} {target} HTTP/1.1"
    return f"{name}: {host if name == 'host' else request.stated.get(name, '')}"


def _decoded(text: str) -> str:
    found = _bytes(text)
    return "" if found is None else found.decode("utf-8", "replace")


def _bytes(text: str) -> bytes | None:
    """Return the bytes of a text in base64 of either alphabet, with or without padding; None if it is not that."""
    plain = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True) or None
    except (NotBase64, ValueError):
        return None
