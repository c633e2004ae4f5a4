"""Interpret unsuccessful responses by their status, their Retry-After and the server's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from penstock.failures import CallFailed, Category

READ_CHARACTERS: Final = 4096  # characters, or bytes, of a server's own words that are read
_MAX_RETRY_AFTER: Final = timedelta(days=7)
_CALLERS_FAULT: Final = frozenset({400, 413, 422})
_TOO_SLOW: Final = frozenset({408, 504})
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")


def failure_of(
    status: int, wait: timedelta | None, *, name: str, detail: str, check: dict[str, str] | None = None
) -> CallFailed:
    """Return the failure that a status outside of 2xx means for a call to the server called ``name``.

    ``detail`` holds the server's own words; ``check`` states what to check when the server refuses the credentials or
    does not know the address.
    """
    category, message = _meaning(status, name, check or {})
    said = f"{status}: {detail}" if detail and not 300 <= status < 400 else f"{status}"
    retry_after = None if category is Category.BAD_INPUT else wait
    return CallFailed(category, f"{message} ({said})", retry_after=retry_after)


def _meaning(status: int, name: str, check: dict[str, str]) -> tuple[Category, str]:
    def hint(topic: str) -> str:
        return f": check {check[topic]}" if topic in check else ""

    if status == 429:
        return Category.RATE_LIMITED, f"the {name} limits us"
    if status in _TOO_SLOW:
        return Category.TIMEOUT, f"the {name} timed out"
    if status in _CALLERS_FAULT:
        return Category.BAD_INPUT, f"the {name} refuses the input"
    if status in {401, 403}:
        return Category.PROVIDER_ERROR, f"the {name} refuses our credentials{hint('credentials')}"
    if status == 404:
        return Category.PROVIDER_ERROR, f"the {name} knows no such address or model{hint('address')}"
    if 300 <= status < 400:
        return Category.PROVIDER_ERROR, f"the {name} redirects, which is not followed{hint('address')}"
    if status >= 500:
        return Category.PROVIDER_ERROR, f"the {name} failed"
    return Category.PROVIDER_ERROR, f"the {name} responded unexpectedly"


def stated_wait(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """Return the wait that a response requests in ``Retry-After-Ms``, which OpenAI sends, or in ``Retry-After``."""
    milliseconds = headers.get("Retry-After-Ms")
    if milliseconds is not None and _SECONDS.fullmatch(milliseconds.strip()):
        return min(timedelta(milliseconds=float(milliseconds)), _MAX_RETRY_AFTER)
    return retry_after(headers.get("Retry-After"), now=now)


def retry_after(header: str | None, *, now: datetime) -> timedelta | None:
    """Return the wait in a Retry-After header (seconds or a date); None when it is absent or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if _SECONDS.fullmatch(text):
        wait = timedelta(seconds=float(text))
    else:
        try:
            when = parsedate_to_datetime(text)
            wait = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - now
        except (ValueError, OverflowError):  # a year or an offset that no date has
            return None
    return min(max(wait, timedelta(0)), _MAX_RETRY_AFTER)


def error_text(body: bytes) -> str:
    """Return a server's own words about an error; ``Peer.excerpt`` bounds and masks them."""
    try:
        stated = msgspec.json.decode(body)
        error = stated.get("error", stated) if isinstance(stated, dict) else stated
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        if isinstance(message, str):
            return message
        body = msgspec.json.encode(stated)  # in one spelling, which the masking knows
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return body[:READ_CHARACTERS].decode("utf-8", "replace")
