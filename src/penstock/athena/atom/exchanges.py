"""The calls and sessions in progress, by their handles."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, NamedTuple

from penstock.athena.atom.exchange import Exchange, share
from penstock.athena.protocol import codes
from penstock.athena.protocol.codes import Outcome
from penstock.telemetry import metrics
from penstock.tenants.principal import Principal, TenantId

MAX_EXCHANGES: Final = 10_000
_MAX_ENDED: Final = 4096  # of which is known why they have ended
_OPEN = metrics.gauge("penstock_athena_exchanges", "Calls and sessions of Athena's gRPC server in progress.")
_IDLE: Final = codes.as_outcome(codes.SESSION_IDLE)
_ENDED: Final = codes.as_outcome(codes.INACTIVE, "the call or session has ended and was released")
_STOPPING: Final = codes.as_outcome(codes.INACTIVE, "the server is stopping: call another one")
_LEFT: Final = codes.as_outcome(codes.INACTIVE, "the call or session was released, because its client has left")


class Key(NamedTuple):
    """A handle, within what one sender may use: senders choose handles, and do not see those of others."""

    tenant: TenantId
    sender: str
    handle: str


def key_of(principal: Principal, handle: str) -> Key:
    return Key(principal.tenant, principal.key or "", handle)


class Refusal(Exception):
    """An operation is not possible. ``outcome`` is what its response states."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class Place:
    """A handle that is in use. ``exchange`` is None while the call is being accepted."""

    __slots__ = ("exchange", "key", "timer", "users")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.exchange: Exchange | None = None
        self.users = 0  # RPCs that use it
        self.timer: asyncio.TimerHandle | None = None


class Exchanges:
    """Finds calls and sessions, and ends those that no RPC has used for ``idle``.

    Each tenant but the default one may have half of the places. ``stop`` ends all. While it is ``draining``, no new
    ones begin. A handle may be used again once its call has ended, while RPCs of that call still wait, so what they
    end is their place and not their handle.
    """

    def __init__(self, idle: timedelta) -> None:
        self.most = MAX_EXCHANGES
        self.draining = False
        self._idle = idle.total_seconds()
        self._places: dict[Key, Place] = {}
        self._of_tenants: Counter[TenantId] = Counter()
        self._ended: OrderedDict[Key, Outcome] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._places)

    async def none_left(self) -> None:
        """Return when nothing is in progress."""
        await self._none_left.wait()

    def reserve(self, key: Key) -> Place:
        """Take a handle for a call that is being accepted. Raises Refusal."""
        if self.draining:
            raise Refusal(_STOPPING)
        if key in self._places:
            raise Refusal(codes.as_outcome(codes.SESSION_REPEATED))
        if len(self._places) >= self.most:
            raise Refusal(codes.as_outcome(codes.FULL, f"{self.most} calls and sessions are in progress"))
        own = self._of_tenants[key.tenant]
        if own >= share(self.most, key.tenant):
            raise Refusal(codes.as_outcome(codes.FULL, f"{own} calls and sessions of this tenant are in progress"))
        self._of_tenants[key.tenant] = own + 1
        place = self._places[key] = Place(key)
        self._ended.pop(key, None)
        self._none_left.clear()
        _OPEN.inc()
        return place

    def add(self, place: Place, exchange: Exchange) -> None:
        """Put the call into its reserved place. Raises Refusal if all were ended meanwhile; then it is closed."""
        if self._places.get(place.key) is not place:
            self._close(exchange)
            raise Refusal(_STOPPING)
        place.exchange = exchange

    def _close(self, exchange: Exchange) -> None:
        if not exchange.over:
            task = asyncio.get_running_loop().create_task(exchange.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @asynccontextmanager
    async def using(self, key: Key) -> AsyncIterator[tuple[Place, Exchange]]:
        """Use a call or session in the block: it is not idle meanwhile. An RPC that is cancelled ends it, because its
        client has left. Raises Refusal."""
        place = self._places.get(key)
        if place is None or place.exchange is None:
            raise Refusal(self._ended.get(key) or codes.as_outcome(codes.INVALID_HANDLE))
        place.users += 1
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        try:
            yield place, place.exchange
        except asyncio.CancelledError:
            self.end(place, _LEFT)
            raise
        finally:
            place.users -= 1
            if not place.users and self._places.get(key) is place:
                place.timer = asyncio.get_running_loop().call_later(self._idle, self.end, place, _IDLE)

    def end(self, place: Place, why: Outcome = _ENDED) -> None:
        """End the call or session in a place and release its handle. It may be repeated."""
        if self._places.get(place.key) is not place:
            return
        del self._places[place.key]
        self._of_tenants[place.key.tenant] -= 1
        if not self._of_tenants[place.key.tenant]:
            del self._of_tenants[place.key.tenant]
        _OPEN.dec()
        if place.timer is not None:
            place.timer.cancel()
        if place.exchange is not None:
            self._ended[place.key] = why
            while len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)
            self._close(place.exchange)
        if not self._places:
            self._none_left.set()

    async def stop(self) -> None:
        """End all calls and sessions, and wait for it."""
        self.draining = True
        for place in list(self._places.values()):
            self.end(place, _LEFT)
        await asyncio.gather(*self._closing, return_exceptions=True)
