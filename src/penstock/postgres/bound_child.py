"""Run a program as another user and bound to its parent's life. Executed by path, never imported.

    python -I -S bound_child.py PARENT_PID UID GID SIGNAL PROGRAM [ARGUMENT…]

Changes to UID and GID (unless -1), asks the kernel to send SIGNAL when the parent dies, however it dies, and
becomes PROGRAM. This needs a process of its own: the request is forgotten when the user changes, so it
comes after that, and code between fork and exec in a process with threads is not safe.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, uid, gid, number = (int(argument) for argument in sys.argv[1:5])
    program = sys.argv[5:]
    os.chdir("/")  # the caller's folder may be closed to the new user
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # elsewhere an orphan is stopped by the next start instead
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        sys.exit(1)
    os.umask(0o077)
    os.execv(program[0], program)  # noqa: S606  (no shell is what we want)


main()
