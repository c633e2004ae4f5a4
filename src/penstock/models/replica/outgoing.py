"""Send results from a blocking replica to its host; results of quick calls are sent together."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

_TOGETHER_SECONDS = 0.0002  # how long a result may wait to be sent with the next one
_TOGETHER_BYTES = 2**16


class Outgoing:
    """Writes to the host, from any thread. Blocks while the host does not read, so that nothing piles up here."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._parts: list[bytes | memoryview] = []
        self._bytes = 0
        self._since = 0.0  # perf_counter of the oldest part

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write the kept results, and this frame."""
        with self._lock:
            self._parts += parts
            self._write()

    def keep(self, parts: Sequence[bytes | memoryview], now: float) -> None:
        """Keep a result to send it with the next one, which is expected soon; write all when enough are kept."""
        with self._lock:
            if not self._parts:
                self._since = now
            self._parts += parts
            for part in parts:
                self._bytes += len(part)
            if now - self._since >= _TOGETHER_SECONDS or self._bytes >= _TOGETHER_BYTES:
                self._write()

    def flush(self) -> None:
        """Write the kept results."""
        if self._parts:
            with self._lock:
                self._write()

    def flush_if_idle(self) -> None:
        """Write the kept results, unless another thread is writing, which sends them anyway."""
        if self._parts and self._lock.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._lock.release()

    def _write(self) -> None:
        parts, self._parts, self._bytes = self._parts, [], 0
        try:
            if len(parts) == 1:
                self._connection.sendall(parts[0])
            elif sum(map(len, parts)) <= _TOGETHER_BYTES:
                self._connection.sendall(b"".join(parts))
            else:
                for part in parts:
                    self._connection.sendall(part)
        except OSError:
            pass  # the host has gone: reading ends the process


def quick(seconds: float) -> bool:
    """Whether a call was so quick that the next one is likely to be, too."""
    return seconds < _TOGETHER_SECONDS


clock = time.perf_counter
