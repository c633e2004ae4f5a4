"""The calls of ``Client`` about callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from penstock.callbacks.endpoint import (
    CreatedEndpoint,
    DeliveryPage,
    DeliveryStatus,
    Endpoint,
    EndpointPage,
    Replayed,
)
from penstock.client.transport import Transport
from penstock.client.views import as_id

_CALLBACKS: Final = "/api/v1/callbacks"


class CallbackCalls:
    """Manages callbacks and their deliveries."""

    _transport: Transport

    async def create_callback(
        self, url: str, *, events: Sequence[str] | None = None, description: str = "", secret: str | None = None
    ) -> CreatedEndpoint:
        """Register an endpoint for types of events; returns it with its secret, which cannot be read later.

        By default, it gets the events with which jobs end.
        """
        body: dict[str, Any] = {"url": url, "description": description}
        if events is not None:
            body["events"] = list(events)
        if secret is not None:
            body["secret"] = secret
        return await self._transport.call("POST", _CALLBACKS, CreatedEndpoint, body=body)

    async def callbacks(
        self, *, of_jobs: bool = False, after: UUID | str | None = None, limit: int = 100
    ) -> EndpointPage:
        """Return a page of the registered endpoints, or of the endpoints that submissions of jobs named."""
        query = {"of_jobs": str(of_jobs).lower(), "limit": str(limit)}
        if after is not None:
            query["after"] = str(as_id(after))
        return await self._transport.call("GET", _CALLBACKS, EndpointPage, query=query)

    async def callback(self, callback_id: UUID | str) -> Endpoint:
        """Return a callback and its state; raises NotFound."""
        return await self._transport.call("GET", f"{_CALLBACKS}/{as_id(callback_id)}", Endpoint)

    async def change_callback(
        self,
        callback_id: UUID | str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        disabled: bool | None = None,
    ) -> Endpoint:
        """Change a callback; None leaves a field as it is."""
        fields = {
            "url": url,
            "events": None if events is None else list(events),
            "description": description,
            "disabled": disabled,
        }
        body = {name: value for name, value in fields.items() if value is not None}
        return await self._transport.call("PATCH", f"{_CALLBACKS}/{as_id(callback_id)}", Endpoint, body=body)

    async def rotate_callback(
        self, callback_id: UUID | str, *, secret: str | None = None, overlap_seconds: float | None = None
    ) -> CreatedEndpoint:
        """Give a callback a new secret, and return it; messages are signed with both, by default for a day."""
        fields = {"secret": secret, "overlap_seconds": overlap_seconds}
        body = {name: value for name, value in fields.items() if value is not None}
        return await self._transport.call(
            "POST", f"{_CALLBACKS}/{as_id(callback_id)}/secret", CreatedEndpoint, body=body
        )

    async def remove_callback(self, callback_id: UUID | str) -> None:
        """Remove a callback and its deliveries; raises NotFound."""
        await self._transport.call("DELETE", f"{_CALLBACKS}/{as_id(callback_id)}", type(None))

    async def test_callback(self, callback_id: UUID | str) -> None:
        """Send an event of the type ``callback.test`` to a callback."""
        await self._transport.call("POST", f"{_CALLBACKS}/{as_id(callback_id)}/test", type(None))

    async def deliveries(
        self,
        callback_id: UUID | str,
        *,
        status: DeliveryStatus | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> DeliveryPage:
        """Return a page of a callback's deliveries, the newest event first."""
        query = {"limit": str(limit)}
        if status is not None:
            query["status"] = status
        if before is not None:
            query["before"] = before
        return await self._transport.call(
            "GET", f"{_CALLBACKS}/{as_id(callback_id)}/deliveries", DeliveryPage, query=query
        )

    async def replay(self, callback_id: UUID | str, *, ids: Sequence[str] | None = None, dead: bool = False) -> int:
        """Send deliveries that have ended again: those with these ids, or the dead ones; returns how many."""
        body: dict[str, Any] = {"dead": dead} if ids is None else {"ids": list(ids)}
        path = f"{_CALLBACKS}/{as_id(callback_id)}/replay"
        return (await self._transport.call("POST", path, Replayed, body=body)).replayed
