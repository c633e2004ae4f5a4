"""Bind a process to its parent: when the parent dies, however it dies, the kernel sends the process a signal.

A child of the supervisor calls ``bind_to_supervisor``. ``bound`` starts any other program through this file::

    python -I -S binding.py PARENT_PID SIGNAL UID GID UMASK STATUS_FD PROGRAM [ARGUMENT…]

It changes to UID, GID and UMASK, binds itself to PARENT_PID, restores the default action of signals, and executes
PROGRAM. If that fails, it writes the reason to STATUS_FD, which is closed otherwise. ``-1`` means "keep" or "none".

This needs a process of its own, because code between fork and exec is not safe in a process with threads, and it has
to be the last step, because the kernel forgets the request when the user changes. The interpreter may be any
Python 3.9 in which Penstock is not installed: only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

SUPERVISOR_PID = "PENSTOCK_SUPERVISOR_PID"  # passed between our own processes; not a setting
_PR_SET_PDEATHSIG = 1
# Signals that some of our processes ignore. A program that they start would inherit that.
_IGNORED_BY_PYTHON = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def bind_to_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Make the kernel send the signal ``number`` to this process when ``parent`` dies; exit if it is already dead.

    On other systems than Linux, only check whether the parent is alive.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel received our request
        os._exit(1)


_supervised = False


def bind_to_supervisor() -> bool:
    """Bind this process to the supervisor that started it; return whether there is one.

    The signal is SIGKILL, because the supervisor's database stops at the same time: draining would have no effect, and
    a lingering gateway would hold the port that the next start needs.
    """
    global _supervised  # noqa: PLW0603  (one parent per process)
    supervisor = os.environ.pop(SUPERVISOR_PID, "")
    if supervisor:
        bind_to_parent(int(supervisor))
        _supervised = True
    return _supervised


def wait_for_supervisor() -> None:
    """Wait until the supervisor closes our standard input, as it does once everything that this process needs is ready.

    Children are started earlier, because their imports take most of a second. A process that was started by hand does
    not wait.
    """
    if _supervised:
        sys.stdin.buffer.read()


def bound(
    program: Sequence[str],
    *,
    number: int = signal.SIGKILL,
    uid: int | None = None,
    gid: int | None = None,
    umask: int | None = None,
    status_fd: int | None = None,
) -> list[str]:
    """Return the command that runs ``program`` bound to this process. The first item of ``program`` is a path.

    ``status_fd`` has to be inheritable.
    """
    options = [os.getpid(), int(number), *(-1 if given is None else given for given in (uid, gid, umask, status_fd))]
    return [sys.executable, "-I", "-S", __file__, *map(str, options), *program]


def _main() -> None:
    parent, number, uid, gid, umask, status_fd = (int(argument) for argument in sys.argv[1:7])
    program = sys.argv[7:]
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if umask != -1:
        os.umask(umask)
    if status_fd != -1:
        os.set_inheritable(status_fd, False)
    bind_to_parent(parent, number)
    for ignored in _IGNORED_BY_PYTHON:
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(program[0], program)  # noqa: S606  (no shell is what we want)
    except OSError as error:
        if status_fd == -1:
            raise
        os.write(status_fd, str(error.strerror).encode())
        os._exit(127)


if __name__ == "__main__":
    _main()
