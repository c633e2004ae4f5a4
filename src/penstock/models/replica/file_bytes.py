"""The bytes of media that are in a file instead of in memory.

Used on both sides, even in interpreters that have only msgspec: imports stay within the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

INLINE_BYTES: Final = 2**20  # media up to this size travel in memory, larger uploads and returned files as files
MAX_WHOLE_BYTES: Final = 64 * 2**20  # of a file that is read into memory
_PIECE_BYTES: Final = 2**19


class FileBytes:
    """The first ``size`` bytes of a file.

    ``descriptor`` is an open descriptor of the file, which this object then owns; without it the file is opened at
    ``path`` when it is read. ``identity`` stands for the content where contents are compared, and ``folder`` keeps
    alive the object that removes the file.
    """

    __slots__ = ("_descriptor", "folder", "identity", "path", "size")

    def __init__(
        self, path: str, size: int, *, descriptor: int = -1, identity: bytes = b"", folder: object = None
    ) -> None:
        self.path = path
        self.size = size
        self.identity = identity
        self.folder = folder
        self._descriptor = descriptor

    def __len__(self) -> int:
        return self.size

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def piece(self, start: int) -> bytes:
        """Return up to 512 KiB from ``start``; nothing at the end. Blocks. Raises OSError, also for a file that has
        become shorter."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        wanted = min(_PIECE_BYTES, self.size - start)
        if wanted <= 0:
            return b""
        data = os.pread(self._descriptor, wanted, start)
        if not data:
            raise OSError(f"the file has {start} bytes, and had {self.size}")
        return data

    def opened(self) -> BinaryIO:
        """Return the file opened for reading; the caller closes it. Raises OSError."""
        return Path(self.path).open("rb")

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes. Blocks. Raises OSError."""
        start = 0
        while data := self.piece(start):
            yield data
            start += len(data)

    def whole(self) -> bytes:
        """Return all bytes. Blocks. Raises OSError."""
        return b"".join(self.pieces())
