"""Memory for bodies that handlers hold as a whole, and for large messages, shared by all requests of a server."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta

from penstock.errors import Overloaded


class BodySpace:
    """A bound on the total bytes of the bodies that are held. Requests wait for space in order.

    Space is taken for a whole body before it is read, so that a body whose reading has begun can always be completed.
    """

    def __init__(self, capacity: int, timeout: timedelta) -> None:
        self.taken = 0  # bytes
        self._capacity = capacity
        self._timeout = timeout
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """Take space for a body and return how much was taken. A body larger than the whole space takes all of it.

        Raises Overloaded if not enough becomes free in time.
        """
        size = min(size, self._capacity)
        if self._waiting or self.taken + size > self._capacity:
            await self._turn(size)
        else:
            self.taken += size
        return size

    def try_take(self, size: int) -> bool:
        """Take space at once; return False if there is not enough, or others wait for it."""
        if self._waiting or self.taken + size > self._capacity:
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Return space, and give it to those that wait."""
        self.taken -= size
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if self.taken + size > self._capacity:
                    return
                self.taken += size
                turn.set_result(None)
            self._waiting.popleft()

    async def _turn(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # space was granted in the same iteration of the event loop
                self.give_back(size)
            turn.cancel()
            self.give_back(0)  # the next ones may need less
            if isinstance(error, TimeoutError):
                raise Overloaded("the bodies of other requests take all the memory that is set aside") from None
            raise
