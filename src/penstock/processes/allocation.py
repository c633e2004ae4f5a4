"""The memory allocator of this process."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's mallopt
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 * 2**20
_LARGE_BYTES: Final = 4 * 2**20  # larger blocks are returned to the system when they are freed


def keep_freed_memory() -> bool:
    """Have freed memory of up to 32 MiB kept for later use; return whether the allocator accepted that.

    By default glibc returns it to the system as soon as 2 MiB or less are free. Every request body of about a megabyte
    then takes its pages from the system again, which costs more than copying its bytes. Has an effect on glibc only.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _LARGE_BYTES))
