"""The guardian's process: kills process groups when its host has ended. Executed by path, never imported.

Reads process groups from standard input, one per line: ``123`` to watch, ``-123`` to forget; ``folder 2f74…`` is the
path, in hexadecimal, of a folder to remove. The input ends when the host has ended; the remaining groups then have one
second to end by themselves before they are killed.
"""

import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 1.0


def main() -> None:
    groups: set[int] = set()
    folder = b""
    for line in sys.stdin.buffer:
        if line.startswith(b"folder "):
            folder = bytes.fromhex(line[7:].decode())
            continue
        number = int(line)
        (groups.add if number > 0 else groups.discard)(abs(number))
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = {group for group in groups if send(group, 0)}
    for group in groups:
        send(group, signal.SIGKILL)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def send(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether the group still exists."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


main()
