"""All connections of a server, and the bounds that they share."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from typing import Final

from penstock.telemetry import logs
from penstock.web.body_space import BodySpace
from penstock.web.limits import Limits

log = logs.get(__name__)

_CHECK_SECONDS: Final = 1.0
_SPARE_SHARE: Final = 20  # the part of the limit on idle connections that is freed at once


class Tracked:
    """The part of a connection that ``Connections`` needs to enforce the bounds."""

    __slots__ = ("client", "queued_bytes", "since", "transport")

    transport: asyncio.Transport

    def __init__(self, now: float) -> None:
        self.client = ""  # the address of the other end
        self.since = now  # when the current wait began
        self.queued_bytes = 0  # the size that was counted when its write buffer became full

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, so that closing the connection loses nothing."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once and cancel the handler."""
        raise NotImplementedError

    def check(self, now: float) -> None:
        """Enforce the limits on time."""
        raise NotImplementedError


class Connections:
    """The open connections of a server. ``draining`` is set when it begins to stop: responses then close theirs."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.draining = False
        self.open: set[Tracked] = set()
        self.queued_bytes = 0  # of stalled responses
        self.body_space = BodySpace(limits.bodies_bytes, limits.bodies_timeout)
        self.none_left = asyncio.Event()
        self._stalled: dict[Tracked, None] = {}  # connections whose write buffer is full, the longest stalled first
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: Tracked) -> None:
        """Count a new connection; where there are too many, close idle ones to make room for it."""
        limits, address = self.limits, connection.client
        if self.draining:  # it was accepted a moment before the listener was closed
            connection.transport.close()
        full = len(self.open) >= limits.connections and not self._close_longest_idle(0)
        self.open.add(connection)
        self._by_address[address] += 1
        if self._timer is None:
            self._schedule()
        if full:
            log.warning("too_many_connections", limit=limits.connections)
            connection.abort()
        elif self._by_address[address] > limits.idle_connections_per_address:
            self._close_longest_idle(limits.idle_connections_per_address, address)
        elif len(self.open) > limits.idle_connections:
            self._close_longest_idle(limits.idle_connections)

    def _close_longest_idle(self, keep: int, address: str | None = None) -> bool:
        """Close the longest idle connections if more than ``keep`` are idle; return whether any were closed.

        Closes a few more than necessary, so that a flood of connections does not cause a full search for each one.
        """
        idle = [one for one in self.open if one.is_idle and (address is None or one.client == address)]
        if len(idle) <= keep:
            return False
        needed = len(idle) - keep if keep else 1
        excess = needed + max(keep, len(idle)) // _SPARE_SHARE
        for one in heapq.nsmallest(excess, idle, key=lambda one: one.since):
            one.abort()
        return True

    def closed(self, connection: Tracked) -> None:
        self.flowing(connection)
        self.open.discard(connection)
        self._by_address[connection.client] -= 1
        if self._by_address[connection.client] <= 0:
            del self._by_address[connection.client]
        if not self.open:
            self.none_left.set()

    # Time: one timer for all connections; it runs only while there are any

    def _schedule(self) -> None:
        limits = self.limits
        shortest = min(
            limits.head_timeout,
            limits.idle_timeout,
            limits.body_window,
            limits.drain_window,
            limits.linger,
            limits.ping,
        )
        seconds = min(_CHECK_SECONDS, shortest.total_seconds() / 2)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.open):
            connection.check(now)
        self._timer = None
        if self.open:
            self._schedule()

    # Bytes

    def stalled(self, connection: Tracked) -> None:
        """Count the bytes of a connection whose write buffer is full; above the limit, cut the longest stalled."""
        connection.queued_bytes = connection.transport.get_write_buffer_size()
        self.queued_bytes += connection.queued_bytes
        self._stalled[connection] = None
        while self.queued_bytes > self.limits.queued_bytes and len(self._stalled) > 1:
            longest = next(iter(self._stalled))
            log.warning("stalled_reader_cut", client=longest.client, waiting_bytes=longest.queued_bytes)
            self.flowing(longest)
            longest.abort()

    def flowing(self, connection: Tracked) -> None:
        """Stop counting a connection whose write buffer has room again."""
        if connection in self._stalled:
            del self._stalled[connection]
            self.queued_bytes -= connection.queued_bytes
            connection.queued_bytes = 0
