"""Events as CloudEvents 1.0 in structured mode: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.events.event import Event

CONTENT_TYPE: Final = "application/cloudevents+json"


def cloud_event(event: Event, *, tenant: str | None = None) -> bytes:
    """Return the JSON of an event. ``tenant`` adds the attribute ``tenant``, for readers of several tenants."""
    cloud: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "datacontenttype": "application/json",
        "data": event.data,
    }
    if event.subject is not None:
        cloud["subject"] = str(event.subject)
    if event.time is not None:
        cloud["time"] = event.time
    if tenant is not None:
        cloud["tenant"] = tenant
    return msgspec.json.encode(cloud)
