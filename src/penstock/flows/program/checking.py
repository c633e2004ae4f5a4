"""Check flow code when it is loaded."""

from __future__ import annotations

from types import CodeType
from typing import Any


def checked_code(source: Any, path: str) -> CodeType:
    """Compile the source of a file of flows. Raises SyntaxError."""
    return compile(source, path, "exec", dont_inherit=True)
