"""The limit on jobs that a worker runs at a time, over all its queues."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Slots for running jobs, shared by the claims of one worker; waiters get them in order of arrival."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiters: deque[tuple[int, asyncio.Future[int]]] = deque()

    async def take(self, wanted: int, *, seconds: float) -> int:
        """Take up to ``wanted`` slots and return how many; 0 when none became free within ``seconds``."""
        if self.taken < self.limit and not self._waiters:
            return self._grant(wanted)
        if seconds <= 0:
            return 0
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        entry = (wanted, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(waiter)
        except BaseException as error:
            if waiter.done():  # granted at the same moment
                self.give_back(waiter.result())
            else:
                self._waiters.remove(entry)
                waiter.cancel()
            if isinstance(error, TimeoutError):
                return 0
            raise

    def give_back(self, count: int) -> None:
        """Free that many slots."""
        self.taken -= count
        while self._waiters and self.taken < self.limit:
            wanted, waiter = self._waiters.popleft()
            waiter.set_result(self._grant(wanted))

    def _grant(self, wanted: int) -> int:
        count = min(wanted, self.limit - self.taken)
        self.taken += count
        return count
