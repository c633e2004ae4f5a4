"""The calls and sessions in progress, by their handles."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, NamedTuple

from penstock.athena.atom.exchange import Exchange
from penstock.athena.protocol import codes
from penstock.athena.protocol.codes import Outcome
from penstock.telemetry import metrics
from penstock.tenants.principal import Principal

MAX_EXCHANGES: Final = 10_000
_MAX_ENDED: Final = 4096  # of which is known why they have ended
_OPEN = metrics.gauge("penstock_athena_exchanges", "Calls and sessions of Athena's gRPC server in progress.")
_IDLE: Final = codes.as_outcome(codes.SESSION_IDLE)
_ENDED: Final = codes.as_outcome(codes.INACTIVE, "the call or session has ended and was released")
_STOPPING: Final = codes.as_outcome(codes.INACTIVE, "the server is stopping: call another one")
_LEFT: Final = codes.as_outcome(codes.INACTIVE, "the call or session was released, because its client has left")


class Key(NamedTuple):
    """A handle, within what one sender may use: senders choose handles, and do not see those of others."""

    tenant: int
    sender: str
    handle: str


def key_of(principal: Principal, handle: str) -> Key:
    return Key(principal.tenant, principal.key or "", handle)


class Refusal(Exception):
    """An operation is not possible. ``outcome`` is what its response states."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class _Entry:
    """A handle that is in use. ``exchange`` is None while the call is being accepted."""

    __slots__ = ("exchange", "timer", "users")

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.users = 0  # RPCs that use it
        self.timer: asyncio.TimerHandle | None = None


class Exchanges:
    """Finds calls and sessions, and ends those that no RPC has used for ``idle``.

    ``stop`` ends all. While it is ``draining``, no new ones begin.
    """

    def __init__(self, idle: timedelta) -> None:
        self.most = MAX_EXCHANGES
        self.draining = False
        self._idle = idle.total_seconds()
        self._entries: dict[Key, _Entry] = {}
        self._ended: OrderedDict[Key, Outcome] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._entries)

    async def none_left(self) -> None:
        """Return when nothing is in progress."""
        await self._none_left.wait()

    def reserve(self, key: Key) -> None:
        """Take a handle for a call that is being accepted. Raises Refusal."""
        if self.draining:
            raise Refusal(_STOPPING)
        if key in self._entries:
            raise Refusal(codes.as_outcome(codes.SESSION_REPEATED))
        if len(self._entries) >= self.most:
            raise Refusal(codes.as_outcome(codes.FULL, f"{self.most} calls and sessions are in progress"))
        self._entries[key] = _Entry()
        self._ended.pop(key, None)
        self._none_left.clear()
        _OPEN.inc()

    def add(self, key: Key, exchange: Exchange) -> None:
        """Put the call into its reserved place. Raises Refusal if all were ended meanwhile; then it is closed."""
        entry = self._entries.get(key)
        if entry is None or entry.exchange is not None:
            self._close(exchange)
            raise Refusal(_STOPPING)
        entry.exchange = exchange

    def _close(self, exchange: Exchange) -> None:
        if not exchange.over:
            task = asyncio.get_running_loop().create_task(exchange.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @asynccontextmanager
    async def using(self, key: Key) -> AsyncIterator[Exchange]:
        """Use a call or session in the block: it is not idle meanwhile. An RPC that is cancelled ends it, because its
        client has left. Raises Refusal."""
        entry = self._entries.get(key)
        if entry is None or entry.exchange is None:
            raise Refusal(self._ended.get(key) or codes.as_outcome(codes.INVALID_HANDLE))
        entry.users += 1
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        try:
            yield entry.exchange
        except asyncio.CancelledError:
            self.end(key, _LEFT)
            raise
        finally:
            entry.users -= 1
            if not entry.users and self._entries.get(key) is entry:
                entry.timer = asyncio.get_running_loop().call_later(self._idle, self.end, key, _IDLE)

    def end(self, key: Key, why: Outcome = _ENDED) -> None:
        """End a call or session and release its handle. It may be repeated."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        _OPEN.dec()
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.exchange is not None:
            self._ended[key] = why
            while len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)
            self._close(entry.exchange)
        if not self._entries:
            self._none_left.set()

    async def stop(self) -> None:
        """End all calls and sessions, and wait for it."""
        self.draining = True
        for key in list(self._entries):
            self.end(key, _LEFT)
        await asyncio.gather(*self._closing, return_exceptions=True)
