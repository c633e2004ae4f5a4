"""The connection of a worker to its source of jobs, and the delays while the source cannot be reached."""

from __future__ import annotations

import asyncio
from random import random
from typing import Final

from penstock.work.source import Log

_FIRST_PAUSE: Final = 0.1  # seconds
_LONGEST_PAUSE: Final = 2.0  # seconds between tries


class Link:
    """The state of the connection; ``connected`` is set while the last call to the source succeeded."""

    def __init__(self, log: Log) -> None:
        self.connected = asyncio.Event()
        self._log = log

    async def back_off(self, pause: float, event: str, error: Exception, *, longest: float = _LONGEST_PAUSE) -> float:
        """Wait after a failed call, longer each time, up to ``longest`` seconds. Return the pause, to be passed to the
        next call. Only the first failure is logged, as ``event``."""
        if self.connected.is_set() or not pause:
            self.connected.clear()
            self._log.warning(event, error=described(error))
        pause = min(max(pause * 2, _FIRST_PAUSE), longest, _LONGEST_PAUSE)
        await asyncio.sleep(pause * (0.5 + random() / 2))
        return pause


def described(error: Exception) -> str:
    """Return an error's class and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
