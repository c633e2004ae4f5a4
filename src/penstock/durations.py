"""Durations as people write them in settings: ``5m``, ``2s``, ``1h30m``, ``250ms``."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "us": timedelta(microseconds=1),
    "µs": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(us|µs|ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")

_ALLOWED = "must be a duration such as 250ms, 2s, 5m or 1h30m"


def parse(text: str) -> timedelta:
    """Parse a duration. Raises ValueError, whose message names what is allowed and does not repeat the text.

    A bare ``0`` needs no unit. Negative durations are not allowed.
    """
    compact = text.strip().lower()
    if compact == "0":
        return timedelta(0)
    if not _WHOLE.fullmatch(compact):
        raise ValueError(_ALLOWED)
    try:
        return sum((float(number) * _UNITS[unit] for number, unit in _PART.findall(compact)), timedelta(0))
    except OverflowError:
        raise ValueError(_ALLOWED) from None


def text(duration: timedelta) -> str:
    """Return the shortest text that ``parse`` reads as this duration, to the microsecond: ``1h30m``."""
    left = duration
    parts: list[str] = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
