"""Real processes for tests: running ``penstock``, and finding processes and their children."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

_KEPT = frozenset({"PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "XDG_DATA_HOME"})


PENSTOCK = (sys.executable, "-m", "penstock")


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a test's process: what programs need to run or be measured, and ``variables``."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("COV")} | variables


@asynccontextmanager
async def penstock(
    *arguments: str, environment: Mapping[str, str], folder: Path, log: Path | None = None
) -> AsyncIterator[Process]:
    """Run ``penstock ARGUMENTS`` as a process of its own; kill it at the end if it still runs.

    ``folder`` is its working folder (no ``.env`` from outside). Output goes to ``log``, or nowhere.
    """
    environment = {"PENSTOCK_CALL_FOLDER": str(folder / "calls")} | dict(environment)
    with (log or Path(os.devnull)).open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *PENSTOCK,
            *arguments,
            env=dict(environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> dict[int, str]:
    """Return the direct children of a process and their command lines, the name of the program first (Linux)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and alive(int(entry.name)):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, ValueError):
            continue
    return found
