"""Folders in memory, for servers of tests that write many small files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

_MEMORY: Final = Path("/dev/shm")  # on Linux, files here are in memory only
_NEEDED_BYTES: Final = 4 * 2**30  # a server takes up to 2 GiB for its log, and its databases
_PREFIX: Final = "penstock-"


def has_room() -> bool:
    """Return whether there is memory for the files of a server."""
    return (
        _MEMORY.is_dir()
        and os.access(_MEMORY, os.W_OK)
        and min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available) > _NEEDED_BYTES
    )


def is_inside(folder: Path) -> bool:
    """Return whether a folder is in memory."""
    return folder.is_relative_to(_MEMORY)


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a folder that only this process uses, and remove it at the end."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed: they would take memory until the machine is restarted."""
    for folder in _MEMORY.glob(f"{_PREFIX}*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
