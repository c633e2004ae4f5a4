"""Whether a worker's source of jobs answers, and how long to wait while it does not."""

from __future__ import annotations

import asyncio
from random import random
from typing import Final

from penstock.work.source import Log

_FIRST_PAUSE: Final = 0.1  # seconds
_LONGEST_PAUSE: Final = 2.0  # seconds between tries


class Link:
    """``connected`` is set while the last call to the source succeeded."""

    def __init__(self, log: Log) -> None:
        self.connected = asyncio.Event()
        self._log = log

    async def back_off(self, pause: float, event: str, error: Exception, *, most: float = _LONGEST_PAUSE) -> float:
        """Wait after a call that failed, longer each time, ``most`` seconds at last; answers the pause to hand in the
        next time. Only the first failure is logged, as ``event``."""
        if self.connected.is_set() or not pause:
            self.connected.clear()
            self._log.warning(event, error=described(error))
        pause = min(max(pause * 2, _FIRST_PAUSE), most, _LONGEST_PAUSE)
        await asyncio.sleep(pause * (0.5 + random() / 2))
        return pause


def described(error: Exception) -> str:
    """An error's class and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
