"""Memory that a host shares with one replica: large media of inputs travel in it instead of through the socket.

The host allocates and frees; the replica only reads. A segment's space is freed when its call has ended. A crash leaves
nothing behind, because the memory has no name and disappears with the two processes.
"""

from __future__ import annotations

import mmap
import os
from bisect import insort
from contextlib import suppress
from typing import Final

ARENA_BYTES: Final = 32 * 2**20  # of address space; memory is taken as it is used, and given back by ``trim``
MIN_BYTES: Final = 2**16  # smaller segments are faster through the socket
_PAGE: Final = mmap.PAGESIZE


class Arena:
    """Space for segments. ``fd`` is passed to the replica; it is closed by ``close``."""

    def __init__(self, size: int = ARENA_BYTES) -> None:
        self.fd = os.memfd_create("penstock-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size)
            self._memory = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.size = size
        self.touched = False  # whether memory was used since the last ``trim``
        self._free: list[tuple[int, int]] = [(0, size)]  # offset and size, by offset

    def put(self, data: bytes | memoryview) -> int | None:
        """Copy ``data`` into free space. Returns its offset, or None where there is no space for it."""
        size = _rounded(len(data))
        for index, (offset, free) in enumerate(self._free):
            if free >= size:
                if free == size:
                    del self._free[index]
                else:
                    self._free[index] = (offset + size, free - size)
                self._memory[offset : offset + len(data)] = bytes(data) if isinstance(data, memoryview) else data
                self.touched = True
                return offset
        return None

    def free(self, offset: int, length: int) -> None:
        """Free the space of ``length`` bytes that ``put`` has returned."""
        insort(self._free, (offset, _rounded(length)))
        merged: list[tuple[int, int]] = []
        for start, size in self._free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self._free = merged

    def trim(self) -> None:
        """Give the memory back to the system, if no segment is in it."""
        if self.touched and self._free == [(0, self.size)]:
            self.touched = False
            with suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Return the memory to the system."""
        os.close(self.fd)
        self._memory.close()


def arena() -> Arena | None:
    """Return a new arena; None where the system has no anonymous files, or no more of them."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return Arena()
    except OSError:
        return None


def _rounded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
