"""Queues of sessions: bounded in bytes, and aware of whether the thread that reads them is at work or waits."""

from __future__ import annotations

import queue
import threading
from typing import Any

_MAX_BYTES = 2**24  # of the requests that wait in one queue; a larger one waits alone
_TURN_SECONDS = 0.1  # after which a wait runs Python again, so that the exception that ends a call can reach it
_MAX_TURNS = 6000  # ten minutes


class Reader:
    """Whether the thread of a handle waits for input."""

    def __init__(self, changed: threading.Condition) -> None:
        self.waits = True  # also before its first request
        self.ended = False
        self._changed = changed

    def ask(self) -> None:
        with self._changed:
            self.waits = True
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.waits = self.ended = True
            self._changed.notify_all()

    def restart(self) -> None:
        with self._changed:
            self.ended = False


class Inputs(queue.Queue[Any]):
    """The requests of a session on their way to its thread. ``put`` waits while too many bytes wait here."""

    def __init__(self, reader: Reader, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__()
        self._reader = reader
        self._max_bytes = max_bytes
        self._waiting_bytes = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        size = _size(item)
        with self.not_full:
            for _ in range(_MAX_TURNS):
                if not self._waiting_bytes or self._waiting_bytes + size <= self._max_bytes or self._reader.ended:
                    break
                self.not_full.wait(_TURN_SECONDS)
        super().put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._reader.ask()
        return super().get(block, timeout)

    def clear(self) -> None:
        with self.not_full:
            self.queue.clear()
            self._waiting_bytes = 0
            self.not_full.notify_all()

    # Of queue.Queue; called with its lock held

    def _put(self, item: Any) -> None:
        self._waiting_bytes += _size(item)
        super()._put(item)

    def _get(self) -> Any:
        # A reader that has taken a request is at work in the same instant: `clear` either drops the request or finds
        # the reader at work, so that no other session can be given the handle in between.
        item = super()._get()
        self._reader.waits = False
        self._waiting_bytes -= _size(item)
        return item


class Outputs(queue.Queue[Any]):
    """The results of a session that is read by ``wrapperRead``."""

    def clear(self) -> None:
        with self.mutex:
            self.queue.clear()


def _size(item: Any) -> int:
    """Return the bytes of a request; what is something else counts as none."""
    try:
        return sum(len(node.data) for node in item.list)
    except (AttributeError, TypeError):
        return 0
