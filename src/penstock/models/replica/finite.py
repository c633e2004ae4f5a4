"""NaN and infinities, which many programs write as JSON and which JSON does not have."""

from __future__ import annotations

import json as standard
from typing import Final

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
