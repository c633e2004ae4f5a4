"""The files that hold flow code."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

_files: Final[set[str]] = set()
_folders: Final[set[str]] = set()


def add_file(path: str) -> None:
    """Count the code of this file as flow code."""
    _files.add(path)
    is_flow_code.cache_clear()


def add_folder(path: str) -> None:
    """Count the code of all files in and below this folder as flow code."""
    _folders.add(os.path.join(path, ""))  # noqa: PTH118  (file names of code objects are strings)
    is_flow_code.cache_clear()


@lru_cache(maxsize=10_000)
def is_flow_code(path: str) -> bool:
    """Return whether code of this file is flow code."""
    return path in _files or any(path.startswith(folder) for folder in _folders)
