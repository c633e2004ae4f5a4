"""A look at something slow, shared by whoever asks meanwhile, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedLook(Generic[T]):
    """Calls ``look`` when what it found last is older than ``keep`` seconds, or when there was an error. One look goes
    on at a time; a caller who leaves takes nothing from the others."""

    def __init__(
        self, look: Callable[[], Coroutine[Any, Any, T]], *, keep: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._keep = keep
        self._clock = clock
        self._looking: asyncio.Task[T] | None = None
        self._done_at = 0.0

    async def __call__(self) -> T:
        """What was found; raises what the look raises."""
        looking = self._looking
        if looking is None or (looking.done() and (_failed(looking) or self._clock() - self._done_at > self._keep)):
            looking = self._looking = asyncio.create_task(self._timed())
        return await asyncio.shield(looking)

    async def close(self) -> None:
        """Give up a look that goes on; may be repeated."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _timed(self) -> T:
        found = await self._look()
        self._done_at = self._clock()
        return found


def _failed(look: asyncio.Task[T]) -> bool:
    return look.cancelled() or look.exception() is not None
