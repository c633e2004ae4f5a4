"""Bytes of chunks that may be on their way to callers: for each call its window, for all of them a limit."""

from __future__ import annotations

from typing import Final

from penstock.errors import Overloaded

MAX_BYTES: Final = 256 * 2**20  # of all windows together
_STEPS: Final = (  # part of the limit that is taken, and the window of the next call
    (0.5, 2**20),
    (0.75, 2**18),
    (1.0, 2**15),
)


class Windows:
    """Windows shrink as more are taken: 1 MiB for the first 128 calls, 256 KiB for 256 more, then 32 KiB."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.taken = 0  # bytes
        self._max_bytes = max_bytes

    def take(self) -> int:
        """The window of one more call, in bytes. Raises Overloaded when all are taken."""
        for part, window in _STEPS:
            if self.taken + window <= part * self._max_bytes:
                self.taken += window
                return window
        raise Overloaded("too many streams are open")

    def give_back(self, window: int) -> None:
        """The caller has read everything, or has gone."""
        self.taken -= window
