"""The limit on open files of this process."""

from __future__ import annotations

import resource
from typing import Final

_MAX_DESCRIPTORS: Final = 65_536  # more is never used, and some programs that we start close every possible descriptor


def raise_limit() -> int:
    """Raise the soft limit on open files to the hard one, as far as it can be used, and return the limit.

    Every connection takes a file, and many systems start processes with a soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # the system allows fewer than the hard limit states
        return soft
    return wanted
