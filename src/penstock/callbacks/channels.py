"""How messages reach endpoints: those of tenants by their URLs, and the marketplace by the settings of this process."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from penstock.callbacks import marketplace, signing
from penstock.callbacks.chains import Prepared
from penstock.callbacks.deliveries import Target
from penstock.callbacks.marketplace import Marketplace
from penstock.callbacks.message import MEDIA_TYPE, Delivery, Details, Key, Message, body_of
from penstock.callbacks.rules import Response
from penstock.callbacks.sender import Sender
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

_FIRST_BODIES: Final = 4  # bodies that are made together, at first
_MAX_BODIES: Final = 32


class Channel(Protocol):
    """Makes the messages of one kind of endpoints, and sends them."""

    def bodies(self, tenant: TenantId, page: Sequence[Delivery], /) -> Awaitable[Mapping[Key, bytes]]:
        """Return the bodies of messages. The caller holds no connection. Raises BlobStoreUnavailable."""

    async def send(self, target: Target, keys: Sequence[bytes], message: Message, /) -> Response:
        """Send a message to an endpoint, signed with its keys if it has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChannel:
    """The endpoints that tenants have registered, and those that jobs name: CloudEvents, signed."""

    database: Database
    sender: Sender
    details: Mapping[str, Details]  # by the first word of event types

    async def bodies(self, tenant: TenantId, page: Sequence[Delivery], /) -> Mapping[Key, bytes]:
        details: dict[Key, Mapping[str, Any]] = {}
        for word, detail in self.details.items():
            own = [one for one in page if one.kind.partition(".")[0] == word]
            if own:
                async with self.database.acquire() as connection:
                    details |= await detail(connection, tenant, own)
        return {one.key: body_of(one, details.get(one.key, {})) for one in page}

    async def send(self, target: Target, keys: Sequence[bytes], message: Message, /) -> Response:
        headers = message.headers | {"Content-Type": MEDIA_TYPE}
        if keys:
            headers["webhook-signature"] = signing.signatures(keys, message.id, message.timestamp, message.body)
        return await self.sender.send(target.url, headers, message.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The channels of one process."""

    tenants: TenantChannel
    marketplace: Marketplace | None = None  # None: the settings name none

    def of(self, target: Target) -> Channel | None:
        """Return the channel of an endpoint; None for the marketplace of a process that does not know it."""
        return self.marketplace if target.url == marketplace.URL else self.tenants

    async def close(self) -> None:
        """Close the connections of all channels."""
        await self.tenants.sender.close()
        if self.marketplace is not None:
            await self.marketplace.sender.close()


async def prepared(channel: Channel, tenant: TenantId, page: Sequence[Delivery], *, room: int) -> list[Prepared]:
    """Return the first deliveries of a page with their bodies, up to ``room`` bytes and one body more.

    Bodies are made for a few deliveries at a time, because their size is known only afterwards.
    """
    found: list[Prepared] = []
    size = _FIRST_BODIES
    while len(found) < len(page):
        some = page[len(found) : len(found) + size]
        bodies = await channel.bodies(tenant, some)
        for delivery in some:
            body = bodies[delivery.key]
            found.append((delivery, body))
            room -= len(body)
            if room <= 0:
                return found
        size = min(2 * size, _MAX_BODIES)
    return found
