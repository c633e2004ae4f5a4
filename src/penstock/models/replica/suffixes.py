"""The endings of files that are written for models."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path
from typing import Final

_PLAIN: Final = re.compile(r"\.[A-Za-z0-9]{1,10}")


def suffix_of(name: str | None = None, media_type: str = "") -> str:
    """Return the ending of a name, such as ``.png``, or else the usual one of a media type; empty if it is not plain.

    This is all that a path may take from a name that a caller has stated.
    """
    suffix = Path(name or "").suffix or mimetypes.guess_extension(media_type.partition(";")[0]) or ""
    return suffix if _PLAIN.fullmatch(suffix) else ""
