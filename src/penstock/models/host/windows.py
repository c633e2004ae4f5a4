"""Bound the bytes of chunks on their way to callers: a window for each call, and a limit for all calls together."""

from __future__ import annotations

from typing import Final

from penstock.errors import Overloaded

MAX_BYTES: Final = 256 * 2**20  # of all windows together
_STEPS: Final = (  # the taken part of the limit, and the window of the next call from there on
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
        """Take a window for one more call; return its bytes. Raises Overloaded when all are taken."""
        for part, window in _STEPS:
            if self.taken + window <= part * self._max_bytes:
                self.taken += window
                return window
        raise Overloaded("too many streams are open")

    def give_back(self, window: int) -> None:
        """Give a window back, because the caller has read everything or has left."""
        self.taken -= window
