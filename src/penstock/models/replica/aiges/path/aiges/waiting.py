"""Queues of sessions: bounded in bytes, and aware of whether the thread that reads them is at work or waits."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_MAX_BYTES = 2**24  # of what waits in one queue; a larger item waits alone
_OVERHEAD = 1024  # bytes of an item besides its data, so that empty ones are bounded as well
_INNER_OVERHEAD = 64  # bytes of each object inside an item
_TURN_SECONDS = 0.1  # after which a wait runs Python again, so that the exception that ends a call can reach it
_WAIT_SECONDS = 600.0


class Reader:
    """Whether the thread of a handle waits for input."""

    def __init__(self, changed: threading.Condition) -> None:
        self.waits = True  # also before its first request
        self.ended = False
        self._changed = changed

    def wait(self) -> None:
        """Note that the thread waits for its next request."""
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


class Bounded(queue.Queue[Any]):
    """A queue in which at most ``max_bytes`` wait, or one item.

    ``put`` waits for room, at most ten minutes, and then raises ``queue.Full``. It drops what still waits for room when
    the queue is cleared.
    """

    def __init__(self, over: Callable[[], bool], max_bytes: int = _MAX_BYTES) -> None:
        super().__init__()
        self._over = over  # whether the session has ended, so that what finds no room is dropped
        self._max_bytes = max_bytes
        self._waiting_bytes = 0
        self._sizes: deque[int] = deque()  # of the items, in their order
        self._cleared = 0  # times

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        size = size_of(item, self._max_bytes)
        with self.not_full:
            if self._wait(size, block=block, timeout=_WAIT_SECONDS if timeout is None else timeout):
                self._sizes.append(size)
                self._waiting_bytes += size
                super()._put(item)
                self.unfinished_tasks += 1
                self.not_empty.notify()

    def clear(self) -> None:
        with self.not_full:
            self.queue.clear()
            self._sizes.clear()
            self._waiting_bytes = 0
            self._cleared += 1
            self.not_full.notify_all()

    def _wait(self, size: int, *, block: bool, timeout: float) -> bool:
        """Wait for room; return whether the item is still wanted. The lock is held."""
        cleared = self._cleared
        turns = int(timeout / _TURN_SECONDS) + 1 if block else 0
        while self._waiting_bytes and self._waiting_bytes + size > self._max_bytes:
            if self._over():
                return False
            if turns <= 0:
                raise queue.Full
            turns -= 1
            self.not_full.wait(_TURN_SECONDS)
            if cleared != self._cleared:
                return False
        return True

    # Of queue.Queue; called with its lock held

    def _get(self) -> Any:
        item = super()._get()
        self._waiting_bytes -= self._sizes.popleft()
        return item


class Inputs(Bounded):
    """The requests of a session on their way to its thread."""

    def __init__(self, reader: Reader, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__(lambda: reader.ended, max_bytes)
        self._reader = reader

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._reader.wait()
        return super().get(block, timeout)

    def _get(self) -> Any:
        # A reader that has taken a request is at work in the same instant: `clear` either drops the request or finds
        # the reader at work, so that no other session can be given the handle in between.
        item = super()._get()
        self._reader.waits = False
        return item


class Outputs(Bounded):
    """The results of a session that is read by ``wrapperRead``."""


def size_of(item: Any, enough: int = _MAX_BYTES) -> int:
    """Return about how many bytes an item of a queue holds; a count may stop at ``enough``.

    Counted are bytes, text, arrays, and what is in collections, in ``list`` and ``data`` of requests, and directly in
    the attributes of other objects.
    """
    size = _OVERHEAD
    seen: set[int] = set()
    rest = [item]
    while rest and size < enough:
        one = rest.pop()
        if id(one) in seen:
            continue
        size += _INNER_OVERHEAD + _plain_bytes(one)
        if not isinstance(one, _PLAIN):
            seen.add(id(one))
            rest.extend(_parts(one))
    return size


_INNER = ("list", "data", "params")
_PLAIN = (bytes, bytearray, str, memoryview, int, float, type(None))


def _plain_bytes(one: Any) -> int:
    if isinstance(one, bytes | bytearray | str):
        return len(one)
    count = getattr(one, "nbytes", 0)  # of memory and of arrays
    return count if isinstance(count, int) else 0


def _parts(one: Any) -> Iterable[Any]:
    if isinstance(one, Mapping):
        return [*one.keys(), *one.values()]
    if isinstance(one, list | tuple | set | frozenset | deque):
        return one
    stated = getattr(one, "__dict__", {})
    return [value for name, value in stated.items() if name in _INNER or isinstance(value, _PLAIN)]
