"""The bond between a supervisor and its children: a child ends when its supervisor does, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

SUPERVISOR_PID: Final = "PENSTOCK_SUPERVISOR_PID"  # between our own processes; no setting
_PR_SET_PDEATHSIG: Final = 1


def bind_to_supervisor() -> None:
    """Called first in every child: from now on the kernel kills this process when its supervisor dies.

    SIGKILL, because the supervisor's database goes down at the same moment: there is nothing left to drain to,
    and a lingering gateway would hold the port that the next start needs. Does nothing in a process that was
    started by hand.
    """
    supervisor = os.environ.pop(SUPERVISOR_PID, "")
    if not supervisor:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before the kernel knew of our wish
        os._exit(1)
