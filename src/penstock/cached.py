"""The result of a slow coroutine, shared by concurrent callers and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Loads a value when it is older than ``keep`` seconds, or when the last load failed.

    One load runs at a time and serves every waiting caller; a caller that is cancelled does not cancel it.
    """

    def __init__(
        self, load: Callable[[], Coroutine[Any, Any, T]], *, keep: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._keep = keep
        self._clock = clock
        self._loading: asyncio.Task[T] | None = None
        self._loaded_at = 0.0

    async def __call__(self) -> T:
        """Return the value, or raise the exception of its load."""
        loading = self._loading
        if loading is None or (loading.done() and (_failed(loading) or self._clock() - self._loaded_at > self._keep)):
            loading = self._loading = asyncio.create_task(self._timed_load())
        return await asyncio.shield(loading)

    async def close(self) -> None:
        """Cancel a running load; may be repeated."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def _timed_load(self) -> T:
        value = await self._load()
        self._loaded_at = self._clock()
        return value


def _failed(load: asyncio.Task[Any]) -> bool:
    return load.cancelled() or load.exception() is not None
