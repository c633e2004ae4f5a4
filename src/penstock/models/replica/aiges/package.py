"""Find our package ``aiges``, which wrappers import, before any other of that name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "path"


def ensure() -> None:
    """Put our package first on the path of this process."""
    place = str(FOLDER)
    if place not in sys.path:
        sys.path.insert(0, place)
