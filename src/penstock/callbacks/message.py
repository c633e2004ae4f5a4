"""Deliveries, and the messages that they send: CloudEvents in JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Raw

from penstock.callbacks.endpoint import Attempt
from penstock.events.cloud_event import CONTENT_TYPE, cloud_event
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.tenants.principal import TenantId

MEDIA_TYPE: Final = CONTENT_TYPE
MAX_DATA_BYTES: Final = 256 * 2**10  # of an event; for larger data, the message contains only the size
Key = tuple[int, int]  # position and place


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event for one endpoint."""

    position: int
    place: int
    mark: int
    kind: str
    source: str
    subject: str
    at: datetime
    data: Raw
    tries: int = 0
    attempts: tuple[Attempt, ...] = ()

    @property
    def key(self) -> Key:
        return (self.position, self.place)

    def id(self, tenant: TenantId) -> str:
        """The id of the message, which is the same for every attempt."""
        return message_id(tenant, self.position, self.place, self.mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One attempt of a delivery. ``timestamp`` is in seconds since 1970."""

    id: str
    timestamp: int
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every message, whatever its receiver."""
        return {"webhook-id": self.id, "webhook-timestamp": str(self.timestamp)}


def message_id(tenant: int, position: int, place: int, mark: int) -> str:
    """Return the id of the message about an event."""
    return f"msg_{tenant}_{position}-{place}-{mark}"


def parse_message_id(text: str) -> tuple[int, int, int, int] | None:
    """Return tenant, position, place and mark of a message id; None if it is not one."""
    tenant, _, event = text.removeprefix("msg_").partition("_")
    numbers = [tenant, *event.split("-")]
    if len(numbers) != 4 or not all(one.isascii() and one.isdigit() and len(one) < 19 for one in numbers):
        return None
    first, second, third, fourth = map(int, numbers)
    found = message_id(first, second, third, fourth)
    return (first, second, third, fourth) if found == text and max(first, third) < 2**31 else None


_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw])


def body_of(delivery: Delivery, details: Mapping[str, Any]) -> bytes:
    """Return the body of a message; ``details`` are added to the event's data."""
    return cloud_event(
        Event(
            position=Position(delivery.position, delivery.place, delivery.mark),
            source=delivery.source,
            type=delivery.kind,
            subject=delivery.subject,
            time=delivery.at,
            data={**_fields.decode(delivery.data), **details},
        )
    )


def stored_data(data: Mapping[str, Any]) -> bytes:
    """Return an event's data as a delivery stores it."""
    encoded = _encode(data)
    if len(encoded) <= MAX_DATA_BYTES:
        return encoded
    small = {name: value for name, value in data.items() if isinstance(value, int | None) or _is_short(value)}
    return _encode(small | {"omitted_bytes": len(encoded)})


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000


# Returns further data about the subjects of deliveries, by key. A room provides this for the first word of its events.
Details = Callable[[asyncpg.Connection, TenantId, Sequence[Delivery]], Awaitable[Mapping[Key, Mapping[str, Any]]]]
