"""The limit on open files of this process."""

from __future__ import annotations

import resource
from typing import Final

from penstock.telemetry import logs

log = logs.get(__name__)

_ENOUGH: Final = 65_536  # more is never used, and some programs that we start close every possible descriptor


def raise_limit() -> int:
    """Raise the soft limit on open files to the hard one, as far as it can be used; return the limit and log it.

    Every connection takes a file, and many systems start processes with a soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            log.warning("open_files_limit_not_raised", limit=soft, wanted=wanted, reason=str(error))
        else:
            soft = wanted
    limit = _ENOUGH if soft == resource.RLIM_INFINITY else soft
    log.info("open_files_limit", limit=limit)
    return limit
