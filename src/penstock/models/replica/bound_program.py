"""Run a program bound to the life of its replica. Executed by path, never imported.

    python -I -S bound_program.py PARENT_PID STATUS_FD PROGRAM [ARGUMENT…]

Asks the kernel to kill this process when the replica dies, however it dies, gives signals back their usual meaning,
and becomes PROGRAM. If that fails, the reason is written to STATUS_FD, which is closed otherwise. This needs a process
of its own: code between fork and exec in a process with threads is not safe.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, status = int(sys.argv[1]), int(sys.argv[2])
    program = sys.argv[3:]
    os.set_inheritable(status, False)
    if sys.platform == "linux":  # elsewhere the program sees the end of its input
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # ignored by replicas and Python; it would stay so
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program[0], program)  # noqa: S606  (no shell is what we want)
    except OSError as error:
        os.write(status, str(error.strerror).encode())
        os._exit(127)


main()
