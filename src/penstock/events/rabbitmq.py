"""Events on RabbitMQ, for other programs: the topic exchange ``penstock.events``, one CloudEvent per message.

The routing key is the tenant's name and the event's type, as in ``default.job.completed``. The message id is the
tenant's name and the event's id; a message that arrives twice has the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from penstock.brokers.broker import BrokerUnavailable
from penstock.brokers.rabbitmq import RabbitMQ, word
from penstock.events.cloud_event import CONTENT_TYPE, cloud_event
from penstock.events.event import Event, StoredEvent
from penstock.events.position import Position
from penstock.events.relay import Destination

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel

EXCHANGE: Final = "penstock.events"
_AT_ONCE: Final = 200  # messages in flight: their confirmations are awaited together


class EventExchange(Destination):
    """Publishes events."""

    name = "rabbitmq"

    def __init__(self, rabbitmq: RabbitMQ) -> None:
        self._rabbitmq = rabbitmq
        rabbitmq.on_connect(_declare)

    def ready(self) -> bool:
        return self._rabbitmq.connected.is_set()

    async def share(self, tenant: int, behind: Position, rows: Sequence[StoredEvent]) -> None:
        """Do nothing: gateways read rows from Redis only."""

    async def send(self, tenant: str, events: Sequence[Event]) -> bool:
        for start in range(0, len(events), _AT_ONCE):
            batch = events[start : start + _AT_ONCE]
            sent = await asyncio.gather(*(self._publish(tenant, event) for event in batch), return_exceptions=True)
            for outcome in sent:
                if isinstance(outcome, BrokerUnavailable):
                    return False
                if outcome is not None:
                    raise outcome
        return True

    async def _publish(self, tenant: str, event: Event) -> None:
        await self._rabbitmq.publish(
            cloud_event(event, tenant=tenant),
            exchange=EXCHANGE,
            routing_key=f"{word(tenant)}.{event.type}",
            content_type=CONTENT_TYPE,
            message_id=f"{tenant}/{event.id}",
        )


async def _declare(channel: AbstractChannel) -> None:
    await channel.declare_exchange(EXCHANGE, "topic", durable=True)
