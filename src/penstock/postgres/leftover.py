"""Servers left over from an earlier run whose supervisor was killed, and processes left over from a killed server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from penstock.errors import CannotStart

_LIMITS: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
_ORPHANS_SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


async def stop_server(cluster: Path) -> None:
    """Stop the server that still runs on ``cluster``, if one does, and wait until it is gone.

    A process that ``postmaster.pid`` names but that is not this server is left alone: process ids are reused. Raises
    CannotStart when the server does not end.
    """
    pid = running_server(cluster)
    if pid is None:
        return
    for request, seconds in _LIMITS:
        log.warning("leftover_server_stopping", pid=pid, signal=request.name, folder=str(cluster))
        try:
            os.kill(pid, request)
        except ProcessLookupError:
            return
        if await _until_not(lambda: running_server(cluster) is not None, seconds):
            return
    raise CannotStart(f"A PostgreSQL of an earlier run (process {pid}) still uses {cluster} and does not stop.")


async def processes_gone(cluster: Path) -> None:
    """Wait until the processes of a killed server have ended; a new server does not start while they hold its memory.

    They end by themselves when they notice that the server is gone. Where processes cannot be listed, return at once.
    """
    if not (cluster / "postmaster.pid").exists():  # it was stopped, not killed
        return
    await _until_not(lambda: _has_orphans(cluster), _ORPHANS_SECONDS)


def _has_orphans(cluster: Path) -> bool:
    return any(_serves(int(path.name), cluster) for path in Path("/proc").glob("[0-9]*"))


def running_server(cluster: Path) -> int | None:
    """Return the process id of the server that runs on ``cluster``, if one does."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid > 1 and _serves(pid, cluster) else None


def _serves(pid: int, cluster: Path) -> bool:
    """Return whether the process is a server on that folder; a server makes the folder its working directory."""
    if Path("/proc/self/comm").exists():  # Linux
        try:
            return Path(f"/proc/{pid}/comm").read_text().startswith("postgres") and Path(f"/proc/{pid}/cwd").samefile(
                cluster
            )
        except OSError:  # the process is gone, a zombie, or another user's
            return False
    listing = subprocess.run(["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return "postgres" in listing.stdout and str(cluster) in listing.stdout


async def _until_not(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something no longer holds, for a limited time; return whether it came to that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while holds():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
