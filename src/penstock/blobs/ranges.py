"""The header Range: the bytes of a file that a request selects (RFC 9110, 14.2)."""

from __future__ import annotations

import re
from typing import Final

UNSATISFIABLE: Final = range(0)  # the range lies after the end of the file

_ONE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.IGNORECASE)


def wanted(header: str | None, size: int) -> range | None:
    """Return the range of bytes, cut to the file's ``size``; None: all of them.

    Several ranges, other units and malformed ranges are ignored, as the standard allows.
    """
    found = _ONE.fullmatch((header or "").strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return range(max(0, size - int(suffix)), size) if int(suffix) else UNSATISFIABLE
    if last is not None and int(last) < int(first):
        return None
    end = size if last is None else min(int(last) + 1, size)
    return range(int(first), end) if int(first) < size else UNSATISFIABLE
