"""Objects as files in a folder, which every host that uses it must see."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from uuid_utils.compat import uuid7

from penstock.blobs.objects.contract import MARK, Description, ListedObject, ObjectMissing, check_key
from penstock.errors import BlobStoreUnavailable

T = TypeVar("T")

_PIECE: Final = 512 * 1024  # bytes that one call reads
_FLUSH: Final = 8 * 2**20  # bytes after which a write to disk begins, so that the final fsync is short
_UNFINISHED: Final = "~"  # suffix of the name of a file that is being written; no key contains it
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_MARK: Final = 1000  # bytes
_TRIES: Final = 5  # to create a file's folder while other processes remove it as empty
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class FolderObjects:
    """Objects in the folder ``root``. A file has its name only once all its bytes are on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    async def write(self, key: str, chunks: AsyncIterator[bytes], description: Description) -> None:
        del description
        path = self._path(key)
        unfinished = path.with_name(path.name + _UNFINISHED)
        file = await self._run(self._create, unfinished)
        try:
            try:
                unflushed = 0
                async for chunk in chunks:
                    unflushed += len(chunk)
                    await self._run(_write, file, chunk, unflushed >= _FLUSH)
                    unflushed %= _FLUSH
                await self._run(os.fsync, file)
            finally:
                os.close(file)
            await self._run(self._finish, unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes. The file stays readable if it is removed in the meantime."""
        file = await self._open(self._path(key))
        if file is None:
            raise ObjectMissing(key)
        try:
            while start < end:
                data = await self._run(os.pread, file, min(_PIECE, end - start), start)
                if not data:
                    raise ObjectMissing(key)
                yield data
                start += len(data)
        finally:
            os.close(file)

    async def remove(self, key: str) -> None:
        await self._run(self._remove, self._path(key))

    async def size(self, key: str) -> int | None:
        file = await self._open(self._path(key))
        if file is None:
            return None
        try:
            return os.fstat(file).st_size
        finally:
            os.close(file)

    async def listed(self, *, after: str, limit: int) -> list[ListedObject]:
        return await self._run(self._list, after, limit)

    async def read_mark(self) -> bytes | None:
        file = await self._open(self.root / MARK)
        if file is None:
            return None
        try:
            return await self._run(os.read, file, _MAX_MARK)
        finally:
            os.close(file)

    async def write_mark(self, content: bytes) -> None:
        await self._run(self._write_mark, content)

    async def signed_url(self, key: str, expires_in: object) -> str | None:
        del key, expires_in
        return None

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call ``work`` in a thread, with errors of the disk as BlobStoreUnavailable.

        A cancelled caller also waits for the thread, so that it does not close a descriptor that the thread is using.
        """
        call = asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> BlobStoreUnavailable:
        if error.errno in _FULL:
            return BlobStoreUnavailable(f"the store of files, {self.url}, has no space left")
        return BlobStoreUnavailable(f"the store of files, {self.url}, cannot be used: {error.strerror or error}")

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    async def _open(self, path: Path) -> int | None:
        """Return a descriptor of a file; None if there is none. A link is not followed."""

        def find() -> int | None:
            try:
                file = os.open(path, _READ)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISREG(os.fstat(file).st_mode):
                return file
            os.close(file)
            return None

        return await self._run(find)

    def _create(self, path: Path) -> int:
        self._require_mark()
        for left in reversed(range(_TRIES)):
            self._make_folders(path.parent)
            try:
                return os.open(path, _WRITE, 0o600)
            except FileNotFoundError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _require_mark(self) -> None:
        """Raise OSError if the folder is no longer mounted, as it was when the process began."""
        if not (self.root / MARK).is_file():
            raise OSError(errno.ENOENT, f"the file {MARK} is not in it")

    def _make_folders(self, folder: Path) -> None:
        """Create a folder and its parents durably."""
        missing: list[Path] = []
        while folder != self.root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with suppress(FileExistsError, FileNotFoundError):  # another writer creates it, or a removal deletes it
                one.mkdir(mode=0o700)
                _sync_folder(one.parent)

    def _finish(self, unfinished: Path, path: Path) -> None:
        unfinished.rename(path)
        _sync_folder(path.parent)

    def _remove(self, path: Path) -> None:
        self._require_mark()
        for one in (path, path.with_name(path.name + _UNFINISHED)):
            with suppress(FileNotFoundError, NotADirectoryError):
                one.unlink()
        folder = path.parent
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:  # it is not empty, or gone
                return
            folder = folder.parent

    def _list(self, after: str, limit: int) -> list[ListedObject]:
        found: list[ListedObject] = []
        for key, status in self._walk(self.root, "", after):
            found.append(
                ListedObject(key=key, size=status.st_size, modified_at=datetime.fromtimestamp(status.st_mtime, tz=UTC))
            )
            if len(found) == limit:
                break
        return found

    def _walk(self, folder: Path, prefix: str, after: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the files with keys after ``after``, in the order of keys, including unfinished ones."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(
                    f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name.removesuffix(_UNFINISHED)
                    for entry in entries
                )
        except (FileNotFoundError, NotADirectoryError):  # removed in the meantime
            return
        for name in dict.fromkeys(names):
            key = prefix + name
            if name.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._walk(folder / name, key, after)
                continue
            if key <= after or key == MARK:
                continue
            for path in (folder / name, folder / (name + _UNFINISHED)):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield key, status
                        break

    def _write_mark(self, content: bytes) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self.root / f"{MARK}.{uuid7()}{_UNFINISHED}"
        file = os.open(unfinished, _WRITE, 0o600)
        try:
            _write(file, content, True)
        finally:
            os.close(file)
        try:
            with suppress(FileExistsError):  # another process has just created it
                os.link(unfinished, self.root / MARK)
        finally:
            unfinished.unlink()
        _sync_folder(self.root)


def _write(file: int, data: bytes, flush: bool) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    if flush:
        os.fdatasync(file)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
