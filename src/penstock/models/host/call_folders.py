"""The files of calls on the host's side: a folder of this host, with a folder for each call whose input has files.

The folder is removed when the host stops, by the guardian when the host was killed, and by the next host beside it when
both were killed: a folder whose lock is free has no host.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from penstock.errors import ModelUnavailable, Overloaded
from penstock.models.host.guardian import Guardian
from penstock.models.replica.call_files import OUT
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.frames import ProtocolError
from penstock.models.replica.suffixes import suffix_of

MAX_BYTES: Final = 16 * 2**30  # of the inputs' files of all calls of a host

_PREFIX: Final = "host-"
_HANDED_OVER: Final = re.compile(r"[0-9]{1,15}")
_RETRY: Final = timedelta(seconds=2)


class CallFolders:
    """Makes the folders of calls in a folder of its own, which it creates in ``parent`` when it is first needed.

    The files of inputs may have ``max_bytes`` together.
    """

    def __init__(self, parent: Path | None, guardian: Guardian, *, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._parent = parent
        self._guardian = guardian
        self._own: Path | None = None
        self._lock = -1  # the descriptor that holds the folder's lock
        self._opening = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._bytes = 0
        self._removals: set[asyncio.Future[None]] = set()

    async def open(self) -> Path:
        """Return the folder of this host. Raises ModelUnavailable."""
        async with self._opening:
            if self._own is not None:
                return self._own
            try:
                own, self._lock = await asyncio.to_thread(_create, self._parent)
            except OSError as error:
                raise ModelUnavailable(f"the folder for files of calls cannot be used: {error.strerror}") from error
            self._own = own
            self._guardian.remove_at_end(own)
            return own

    async def folder(self) -> CallFolder:
        """Return a new folder for the files of one call. Raises ModelUnavailable."""
        return CallFolder(await self.open() / f"input-{next(self._numbers)}", self)

    def reserve(self, size: int) -> None:
        """Count ``size`` bytes of a call's files. Raises Overloaded when there would be too many."""
        if self._bytes + size > self.max_bytes:
            raise Overloaded(
                f"the files of running and waiting calls have {self._bytes} bytes, and may have {self.max_bytes}",
                retry_after=_RETRY,
            )
        self._bytes += size

    def release(self, size: int) -> None:
        self._bytes -= size

    def remove(self, folder: Path) -> None:
        """Remove a folder and all that is in it, in a thread."""
        try:
            removal = asyncio.get_running_loop().run_in_executor(None, _remove, folder)
        except RuntimeError:  # the loop has ended
            _remove(folder)
            return
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def close(self) -> None:
        """Remove this host's folder."""
        if self._removals:
            await asyncio.wait(self._removals)
        own, self._own = self._own, None
        if own is not None:
            await asyncio.to_thread(_remove, own)
            os.close(self._lock)


class CallFolder:
    """The files of one call's input. ``remove`` it when the call has ended; it may be repeated."""

    def __init__(self, path: Path, folders: CallFolders) -> None:
        self._path = path
        self._folders = folders
        self._bytes = 0
        self._files = 0
        self._removed = False

    def __del__(self) -> None:
        self.remove()  # the call was never begun

    async def store(self, chunks: AsyncIterator[bytes], size: int, *, name: str | None, identity: bytes) -> FileBytes:
        """Write a file of ``size`` bytes. No part of a caller's file name but a plain ending is part of its path.

        Raises Overloaded, ModelUnavailable, and any exception of ``chunks``.
        """
        self._folders.reserve(size)
        self._bytes += size
        path = self._path / f"{self._files}{suffix_of(name)}"
        self._files += 1
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                async for chunk in chunks:
                    await asyncio.to_thread(_write, file, chunk)
                if os.fstat(file).st_size != size:
                    raise ModelUnavailable("an upload was not read whole")
            finally:
                os.close(file)
        except OSError as error:
            raise ModelUnavailable(f"a file of the call cannot be stored: {error.strerror}") from error
        return FileBytes(str(path), size, identity=identity, folder=self)

    def remove(self) -> None:
        """Remove the files."""
        if not self._removed:
            self._removed = True
            self._folders.release(self._bytes)
            if self._files:
                self._folders.remove(self._path)


def taken(replica_folder: Path | None, name: str) -> FileBytes:
    """Return a file that a replica has handed over; it no longer has a name, and disappears with the object.

    Raises ProtocolError for anything but a regular file.
    """
    if replica_folder is None or not _HANDED_OVER.fullmatch(name):
        raise ProtocolError("a file was handed over under a name that is not one of such files")
    path = replica_folder / OUT / name
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ProtocolError(f"a file that was handed over cannot be opened: {error.strerror}") from None
    status = os.fstat(file)
    found = FileBytes(str(path), status.st_size, descriptor=file)
    if not stat.S_ISREG(status.st_mode):
        raise ProtocolError("a file that was handed over is not a regular file")
    with suppress(OSError):
        path.unlink()
    return found


def _create(parent: Path | None) -> tuple[Path, int]:
    """Create and lock the folder of a host; remove those of hosts that were killed beside it."""
    if parent is None:
        return _locked(Path(tempfile.mkdtemp(prefix="penstock-calls-")))
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    turn = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)  # so that no other host removes the new folder before it is locked
        for other in parent.glob(f"{_PREFIX}*"):
            if _abandoned(other):
                _remove(other)
        return _locked(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent.absolute())))
    finally:
        os.close(turn)


def _locked(folder: Path) -> tuple[Path, int]:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
