"""Requests in the forms of the RPC, with the rules of a service's document applied, which are about messages in JSON.

Data is not written as base64 for that: a text of the same length stands in its place, and the data itself is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.athena.protocol.data import TYPES, DataObject, Status
from penstock.athena.protocol.requests import RequestMessage, ServiceParameter

Rules = Callable[[dict[str, Any]], dict[str, Any]]


class JsonForm:
    """A message as JSON, without its data."""

    def __init__(self, message: RequestMessage) -> None:
        self._message = message
        self._objects: dict[int, DataObject] = {}  # by the identity of their places in ``value``
        self.value: dict[str, Any] = {}
        if message.header:
            self.value["header"] = dict(message.header)
        if message.parameter:
            self.value["parameter"] = {
                service: {**one.values, **{name: dict(stated) for name, stated in one.expected.items()}}
                for service, one in message.parameter.items()
            }
        if message.payload:
            self.value["payload"] = {name: self._place(one) for name, one in message.payload.items()}

    def _place(self, one: DataObject) -> dict[str, Any]:
        found: dict[str, Any] = dict(one.attributes)
        if one.name not in self._message.unmarked:
            found["status"] = int(one.status)
        if one.seq is not None:
            found["seq"] = one.seq
        found[one.type.value] = "A" * (-(-len(one.data) // 3) * 4)
        self._objects[id(found)] = one
        return found

    def ruled(self, rules: Rules) -> RequestMessage:
        """Return the message as the rules have changed it. Raises their InvalidInput."""
        value = rules(self.value)
        found = RequestMessage(
            header={name: one for name, one in value.get("header", {}).items() if isinstance(one, str | int | float)}
        )
        for service, stated in value.get("parameter", {}).items():
            found.parameter[service] = ServiceParameter(
                values={name: one for name, one in stated.items() if isinstance(one, str | int | float)},
                expected={name: one for name, one in stated.items() if isinstance(one, dict)},
            )
        unmarked: set[str] = set()
        for name, place in value.get("payload", {}).items():
            one = self._objects.get(id(place))
            if one is not None:
                found.payload[name] = _changed(name, one, place)
                if "status" not in place:
                    unmarked.add(name)
        found.unmarked = frozenset(unmarked)
        return found


def _changed(name: str, one: DataObject, place: dict[str, Any]) -> DataObject:
    """Return a data object with the attributes that stand in its place now."""
    status = place.get("status")
    return DataObject(
        name=name,
        type=one.type,
        data=one.data,
        status=Status(status) if isinstance(status, int) and 0 <= status <= 3 else one.status,
        seq=one.seq,
        attributes={
            key: value
            for key, value in place.items()
            if key not in TYPES and key not in {"status", "seq"} and isinstance(value, str | int | float)
        },
    )
