"""The files of a replica's calls: a private folder for each call that needs one, and files that are handed to the host.

All are in the replica's folder, which the host removes when the replica has ended, however it ended. Used in replicas:
imports stay within the standard library.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from pathlib import Path
from typing import Final

from penstock.models.replica.file_bytes import FileBytes

OUT: Final = "out"  # the folder of files that are handed over


class CallFiles:
    """The files of the calls of one replica. Methods may be called from any thread."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._folders: dict[int, Path] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        """The replica's folder, created if it is missing. Raises OSError."""
        if not self._root:
            raise OSError("this process has no folder for files of calls")
        root = Path(self._root)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root

    def folder(self, call_id: int) -> Path:
        """Return the folder of a call, created if it is missing. Raises OSError."""
        with self._lock:
            found = self._folders.get(call_id)
            if found is None:
                found = self._folders[call_id] = self.root / f"call-{call_id}"
                found.mkdir(mode=0o700)
            return found

    def end(self, call_id: int) -> None:
        """Remove the folder of a call that has ended, if it has one."""
        if self._folders:
            with self._lock:
                found = self._folders.pop(call_id, None)
            if found is not None:
                shutil.rmtree(found, ignore_errors=True)

    def hand_over(self, file: FileBytes) -> str:
        """Give a file to the host; return the name by which the host finds it.

        The file itself stays where it is: the host gets a link to it, or a copy where no link is possible. Raises
        OSError, also for what is not a regular file.
        """
        source = Path(file.path).resolve()
        if not source.is_file():
            raise OSError(f"{file.path} is not a regular file")
        out = self.root / OUT
        out.mkdir(mode=0o700, exist_ok=True)
        name = str(next(self._numbers))
        try:
            (out / name).hardlink_to(source)
        except OSError:  # another file system, or a file of another user
            try:
                shutil.copyfile(source, out / name)
            except BaseException:
                (out / name).unlink(missing_ok=True)
                raise
        return name
