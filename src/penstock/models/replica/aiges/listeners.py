"""Find out which processes listen on a port of this machine.

Several may listen on one port (``SO_REUSEPORT``, which gRPC sets), and then the kernel divides connections among them:
a plugin with a fixed port would get the calls of another one's model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"
_PROC: Final = Path("/proc")


def foreign_listener(port: int) -> bool:
    """Return whether a process outside of this one's group listens on the port. False where that is not known."""
    sockets = set(_listening(port))
    return bool(sockets) and bool(sockets - _of_group(os.getpgrp()))


def _listening(port: int) -> Iterator[str]:
    """Yield the sockets that listen on a port, by their numbers."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "self" / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _of_group(group: int) -> set[str]:
    """Return the sockets that processes of a group have open."""
    found: set[str] = set()
    for process in _PROC.iterdir():
        if process.name.isdecimal() and _group_of(process) == group:
            try:
                links = [str(one.readlink()) for one in (process / "fd").iterdir()]
            except OSError:  # it has ended
                continue
            found.update(link[8:-1] for link in links if link.startswith("socket:["))
    return found


def _group_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return None
