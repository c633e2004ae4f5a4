"""The newest report of the program, in memory that outlives it.

A turn is put here before the code continues with the values that it has recorded. If the code then ends the process,
the service finds the turn here, and the functions are not called again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

_BYTES: Final = 2**18
_LENGTH: Final = 8  # bytes


def make_file(content: bytes = bytes(_BYTES)) -> int:
    """Return the descriptor of a new file for one program, which has this content and is at its beginning."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("penstock-flows", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Unsent:
    """The memory, mapped by the service or the program. It owns the descriptor until it has mapped it."""

    def __init__(self, fd: int) -> None:
        try:
            self._memory = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)

    def put(self, report: bytes) -> bool:
        """Keep a report until the next one, or until ``clear``. Return False if it is too large."""
        if len(report) > _BYTES - _LENGTH:
            return False
        self.clear()
        self._memory[_LENGTH : _LENGTH + len(report)] = report
        self._memory[:_LENGTH] = len(report).to_bytes(_LENGTH)  # last: a report without a length does not count
        return True

    def clear(self) -> None:
        """Drop the report: it was sent."""
        self._memory[:_LENGTH] = bytes(_LENGTH)

    def get(self) -> bytes:
        """Return the report; empty if there is none."""
        size = int.from_bytes(self._memory[:_LENGTH])
        return bytes(self._memory[_LENGTH : _LENGTH + size]) if size <= _BYTES - _LENGTH else b""
