"""Events in Redis streams, for other programs: a stream for each tenant, ``penstock:events:TENANT``.

Each entry has the fields ``id`` and ``event``, a CloudEvent. An event that arrives twice has the same id. A stream
keeps about its newest 100,000 events; PostgreSQL has all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from penstock.brokers.broker import BrokerUnavailable
from penstock.brokers.redis import Redis
from penstock.events.cloud_event import cloud_event
from penstock.events.event import Event, StoredEvent
from penstock.events.position import Position
from penstock.events.recent import RecentRows
from penstock.events.relay import Destination

_KEPT: Final = 100_000  # events of a tenant
_AT_ONCE: Final = 500  # events in one round trip


class EventStreams(Destination):
    """Appends events."""

    name = "redis"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._recent = RecentRows(redis)

    def ready(self) -> bool:
        return self._redis.connected.is_set()

    async def share(self, tenant: int, behind: Position, rows: Sequence[StoredEvent]) -> None:
        with suppress(BrokerUnavailable):
            await self._recent.append(tenant, behind, rows)

    async def send(self, tenant: str, events: Sequence[Event]) -> bool:
        try:
            for start in range(0, len(events), _AT_ONCE):
                with self._redis.client() as client:
                    pipeline = client.pipeline(transaction=False)
                    for event in events[start : start + _AT_ONCE]:
                        entry: dict[Any, Any] = {"id": event.id, "event": cloud_event(event, tenant=tenant)}
                        pipeline.xadd(f"penstock:events:{tenant}", entry, maxlen=_KEPT, approximate=True)
                    await pipeline.execute()
        except BrokerUnavailable:
            return False
        return True
