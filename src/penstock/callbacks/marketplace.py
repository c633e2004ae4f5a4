"""The endpoint of the marketplace, which gets the final results of all requests of apps, of every tenant.

Its address and token are settings, so the row of the endpoint (one for each tenant that has such requests) holds
neither, and a change of the settings also applies to deliveries that wait. Only operators see the endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.callbacks.deliveries import Target
from penstock.callbacks.message import Delivery, Key, Message
from penstock.callbacks.rules import Response
from penstock.callbacks.sender import Sender
from penstock.masking import Secret
from penstock.outbound.policy import Policy
from penstock.tenants.principal import TenantId

URL: Final = "marketplace:"  # stored in place of an address; a tenant's endpoint cannot have it
MEDIA_TYPE: Final = "application/json"
POLICY: Final = Policy()  # the operator's own address may be private

# Returns the bodies of messages about requests, by the keys of their deliveries. The caller holds no connection.
Bodies = Callable[[TenantId, Sequence[Delivery]], Awaitable[Mapping[Key, bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marketplace:
    """How this process reaches the marketplace, and what it sends there."""

    url: str
    token: Secret | None
    sender: Sender  # with POLICY
    bodies: Bodies

    async def send(self, _target: Target, _keys: Sequence[bytes], message: Message, /) -> Response:
        """Send a message to the address in the settings, with the token there."""
        authorization = {} if self.token is None else {"Authorization": f"Bearer {self.token.reveal()}"}
        headers = message.headers | {"Content-Type": MEDIA_TYPE} | authorization
        return await self.sender.send(self.url, headers, message.body)
