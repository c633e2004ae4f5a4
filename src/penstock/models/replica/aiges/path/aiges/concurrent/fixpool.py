"""A pool with room for so many workers."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from aiges.concurrent.pool import Pool


class FixedPool(Pool):
    """Keeps at most ``capacity`` workers. A removed one is stopped, and its key is not used again."""

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self.pool: dict[str, Any] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @property
    def allocated(self) -> int:
        return len(self.pool)

    def set_capacity(self, c: int) -> None:
        self.capacity = c

    def get(self, key: str) -> Any:
        return self.pool.get(key)

    def add(self, obj: Any) -> tuple[bool, str]:
        """Keep a worker. Return whether there was room, and its key."""
        with self._lock:
            if len(self.pool) >= self.capacity:
                return False, ""
            key = f"worker-{next(self._numbers)}"
            self.pool[key] = obj
            return True, key

    def remove(self, key: str) -> bool:
        with self._lock:
            removed = self.pool.pop(key, None)
        stop = getattr(removed, "stop", None)
        if stop is not None:
            stop()
        return True

    def clear_all(self) -> None:
        for key in list(self.pool):
            self.remove(key)
