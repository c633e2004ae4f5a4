"""Changes of something that any number of tasks follow, such as the models of a process."""

from __future__ import annotations

import asyncio


class Changes:
    """Counts changes, so that each follower notices one that comes while it is busy with another.

    It belongs to one event loop and is not thread-safe.
    """

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def note(self) -> None:
        """Count a change, and wake all who wait for one."""
        self.count += 1
        noted, self._next = self._next, asyncio.Event()
        noted.set()

    async def after(self, count: int) -> None:
        """Return once there were more than ``count`` changes."""
        while self.count <= count:
            await self._next.wait()
