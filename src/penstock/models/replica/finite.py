"""NaN and infinities, which many programs write as JSON and which JSON does not have."""

from __future__ import annotations

import json as standard
import math
from typing import Any, Final

NOT_FINITE: Final = "NaN or an infinity, which JSON does not have"


def names_no_number(json: bytes) -> bool:
    """Return whether what is not JSON would be JSON if that had ``NaN``, ``Infinity`` and ``-Infinity``."""
    if b"NaN" not in json and b"Infinity" not in json:
        return False
    try:
        standard.loads(json)
    except (ValueError, RecursionError):
        return False
    return True


def first_not_finite(value: Any, path: tuple[str | int, ...] = ()) -> tuple[str | int, ...] | None:
    """Return the place of the first number that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    if isinstance(value, dict):
        places = (first_not_finite(inner, (*path, str(name))) for name, inner in value.items())
    elif isinstance(value, list | tuple):
        places = (first_not_finite(inner, (*path, index)) for index, inner in enumerate(value))
    else:
        return None
    return next((place for place in places if place is not None), None)
