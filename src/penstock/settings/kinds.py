"""The kinds of variables. Each converts a text, or checks a value, and returns the value.

A ValueError states what is allowed. It never repeats the text, which may be a secret set in the wrong variable.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from penstock import durations
from penstock.masking import Secret
from penstock.settings.variable import Kind

T = TypeVar("T")

KIBIBYTE: Final = 2**10
MEBIBYTE: Final = 2**20
MILLISECOND: Final = timedelta(milliseconds=1)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)

_YES: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_NO: Final = frozenset({"0", "false", "f", "no", "n", "off"})


def text(value: object) -> str:
    """Any text that is not blank; surrounding space is removed."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value.strip()


def short_text(max_length: int) -> Kind[str]:
    """A text of at most ``max_length`` characters."""

    def accept(value: object) -> str:
        found = text(value)
        if len(found) > max_length:
            raise ValueError(f"must have at most {max_length} characters")
        return found

    return accept


def choice(*allowed: T) -> Kind[T]:
    """One of these texts, in any case."""
    shown = [f"'{one}'" for one in allowed]
    by_text = {str(one): one for one in allowed}

    def accept(value: object) -> T:
        found = by_text.get(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"must be {', '.join(shown[:-1])} or {shown[-1]}")
        return found

    return accept


def flag(value: object) -> bool:
    """``true`` or ``false``, and the usual other spellings."""
    if isinstance(value, bool):
        return value
    given = value.strip().lower() if isinstance(value, str) else ""
    if given not in _YES | _NO:
        raise ValueError("must be true or false")
    return given in _YES


def integer(low: int, high: int | None = None) -> Kind[int]:
    """A whole number from ``low`` to ``high``."""
    allowed = f"must be a whole number from {low} to {high}" if high is not None else f"must be at least {low}"

    def accept(value: object) -> int:
        given = value.strip() if isinstance(value, str) else value
        if isinstance(given, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", given):
            given = int(given)
        if not isinstance(given, int) or given < low or (high is not None and given > high):
            raise ValueError(allowed)
        return given

    return accept


port: Final = integer(0, 65_535)
count: Final = integer(1, 100)
size: Final = integer(KIBIBYTE, 2**30)  # in bytes


def duration(low: timedelta, high: timedelta) -> Kind[timedelta]:
    """A duration such as ``5m`` from ``low`` to ``high``."""

    def accept(value: object) -> timedelta:
        given = durations.parse(value) if isinstance(value, str) else value
        if not isinstance(given, timedelta) or not low <= given <= high:
            raise ValueError(f"must be a duration from {durations.text(low)} to {durations.text(high)}")
        return given

    return accept


def folder(value: object) -> Path:
    """A path; ``~`` is the home folder."""
    return Path(value if isinstance(value, Path) else text(value)).expanduser().absolute()


def http_url(value: object) -> str:
    """An HTTP URL, returned without a trailing slash."""
    given = text(value)
    try:
        parts = urlsplit(given)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # misplaced brackets or an invalid port
        good = False
    if not good:
        raise ValueError("must be a URL that begins with http:// or https://")
    return given.rstrip("/")


def secret_url(value: object) -> Secret:
    """An HTTP URL that is secret as a whole, because its path may contain a token."""
    return Secret(http_url(_secret(value)))


def database_url(value: object) -> Secret:
    """The URL of a PostgreSQL server, checked here because the driver's messages may quote a part of the password."""
    given = _secret(value)
    url = _DATABASE_URL.match(given)
    if url is None:
        raise ValueError("must be a URL of the form postgresql://user:password@host:5432/database")
    for host in url["hosts"].split(","):
        found = _HOST_PORT.fullmatch(host)
        if found is None or not 0 < int(found["port"] or 5432) <= 65_535:
            raise ValueError(
                "must name its host as host:5432 or [2001:db8::1]:5432; in user and password, special characters are "
                "percent-encoded: %2F for /, %40 for @, %23 for #"
            )
    return Secret(given)


_DATABASE_URL: Final = re.compile(r"postgres(?:ql)?://(?:[^/?#]*@)?(?P<hosts>[^/?#@]*)")
_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\[\]:\s]*)(?::(?P<port>[0-9]{1,5})?)?")


def secret(value: object) -> Secret:
    """Any secret that is not blank."""
    return Secret(_secret(value))


def header_secret(value: object) -> Secret:
    """A secret that is sent in an HTTP header: visible ASCII only. Surrounding space is removed as a mistake."""
    stripped = _secret(value).strip()
    if not re.fullmatch(r"[!-~]+", stripped):
        raise ValueError("must be visible ASCII characters without spaces")
    return Secret(stripped)


def instance_secret(value: object) -> Secret:
    """One secret of 32 bytes as base64, or two separated by a comma."""
    given = _secret(value)
    for one in given.split(","):
        if not re.fullmatch(r"[A-Za-z0-9+/_-]{43}=?|[0-9A-Fa-f]{64}", one.strip()):
            raise ValueError(
                "must be 32 bytes as base64 (or hexadecimal digits), or two of them separated by a comma; "
                "make one with: openssl rand -base64 32"
            )
    return Secret(given)


def network(value: object) -> str:
    """A network of addresses."""
    try:
        return str(ipaddress.ip_network(text(value), strict=False))
    except ValueError:
        raise ValueError("must be a network such as 10.2.0.0/16 or fd00::/8") from None


def host_port(value: object) -> str:
    """A host name or address, with or without a port: ``broker``, ``broker:5672``, ``[::1]:5672``."""
    given = text(value)
    found = _HOST_PORT.fullmatch(given)
    if found is None or found["port"] == "" or not 0 < int(found["port"] or 1) <= 65_535 or given.startswith(":"):
        raise ValueError("must be a host or host:port, with an IPv6 address in brackets")
    return given


def several(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A comma-separated list."""

    def accept(value: object) -> tuple[T, ...]:
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise ValueError("must be a comma-separated list")
        return tuple(kind(part) for part in parts)

    return accept


def _secret(value: object) -> str:
    return value.reveal() if isinstance(value, Secret) else text(value)
