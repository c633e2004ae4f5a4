"""Numbers that JSON does not have: NaN and infinities, by name or because a number exceeds the range of floats."""

from __future__ import annotations

import json as standard
import math
from typing import Any, Final

from penstock.errors import dotted

NOT_FINITE: Final = "NaN or an infinity, which JSON does not have"
_OUT_OF_RANGE: Final = "a number out of range"  # beyond ±1.8e308


def not_finite_in(json: bytes) -> str | None:
    """Return what a text holds that is not JSON only because of a number that is not finite, with its place."""
    try:
        place = first_not_finite(standard.loads(json))
    except (ValueError, RecursionError):
        return None
    if place is None:
        return None
    if b"NaN" in json or b"Infinity" in json:
        return NOT_FINITE
    return f"{_OUT_OF_RANGE} at {dotted(place)}" if place else _OUT_OF_RANGE


def first_not_finite(value: Any) -> tuple[str | int, ...] | None:
    """Return the place of the first number that is not finite. The value may be nested to any depth."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while left:
        path, value = left.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return path
        elif isinstance(value, dict):
            left += [((*path, str(name)), inner) for name, inner in reversed(value.items()) if _may_hold(inner)]
        elif isinstance(value, list | tuple):
            left += [((*path, index), value[index]) for index in reversed(range(len(value))) if _may_hold(value[index])]
    return None


def _may_hold(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) or (isinstance(value, float) and not math.isfinite(value))
