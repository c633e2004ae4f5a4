"""Load shared libraries that models consist of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penstock.failures import CallFailed, Category


def opened(ffi: Any, path: Path, functions: Iterable[str], *, header: str) -> Any:
    """Load a library by a ``cffi.FFI`` and check that it has all functions of a header.

    Raises CallFailed (``unavailable``).
    """
    try:
        library = ffi.dlopen(str(path.absolute()), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
    except OSError as error:
        raise CallFailed(Category.UNAVAILABLE, f"{path.name} cannot be loaded: {error}") from None
    missing = [name for name in functions if not hasattr(library, name)]
    if missing:
        raise CallFailed(Category.UNAVAILABLE, f"{path.name} has no function {', '.join(missing)}: see {header}")
    return library
