"""Describe the exit statuses of processes."""

from __future__ import annotations

import signal


def described(status: int) -> str:
    """Return ``exit status 3`` or ``signal SIGKILL``, from a return code of ``subprocess``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-status}"
