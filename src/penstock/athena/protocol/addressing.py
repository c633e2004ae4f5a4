"""The parts of a message that concern one service: all of it, or what is named for that service beside others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.athena.protocol.data import DataObject, Scalar
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.requests import RequestMessage
from penstock.errors import FieldProblem, InvalidInput

Attributes = dict[str, Scalar]


@dataclass(slots=True, kw_only=True)
class ServiceRequest:
    """What a message states for one service."""

    service: str
    header: Attributes = field(default_factory=dict)
    values: Attributes = field(default_factory=dict)  # parameters
    expected: dict[str, Attributes] = field(default_factory=dict)  # results, with the attributes they should have
    payload: dict[str, DataObject] = field(default_factory=dict)  # by the name that the service knows
    names: Mapping[str, str] = field(default_factory=dict)  # names in the message of objects that it names otherwise

    def parameter_field(self, name: str) -> str:
        """Return the path of a parameter in the message."""
        return f"parameter.{self.service}.{name}"

    def payload_field(self, name: str) -> str:
        """Return the path of a data object in the message."""
        return f"payload.{self.names.get(name, name)}"


def for_service(message: RequestMessage, service: str) -> ServiceRequest:
    """Return a message that is for one service.

    Its parameters may stand under any names, as in the original's loader; those under the service's own name, or else
    the last ones, take precedence.
    """
    found = ServiceRequest(service=service, header=message.header, payload=message.payload)
    for name in sorted(message.parameter, key=lambda one: one == service):  # stable: its own name is the last
        one = message.parameter[name]
        found.values |= one.values
        found.expected |= one.expected
    if len(message.parameter) == 1:
        found.service = next(iter(message.parameter))
    return found


def divided(message: RequestMessage, services: Sequence[str]) -> dict[str, ServiceRequest]:
    """Return the parts of a message for several services, by service.

    A data object belongs to the service whose name is the beginning of its own, before an underscore, or all of it;
    where several are, to the one with the longest name. Raises InvalidInput for what belongs to none.
    """
    mistakes = Mistakes()
    found = {one: ServiceRequest(service=one, header=message.header) for one in services}
    for name, stated in message.parameter.items():
        if name in found:
            found[name].values, found[name].expected = stated.values, stated.expected
        else:
            mistakes.add(("parameter", name), f"is none of the services {', '.join(services)}")
    for name, one in message.payload.items():
        owner = _owner(name, services)
        if owner is None:
            mistakes.add(("payload", name), f"must begin with one of the services {', '.join(services)}")
            continue
        own = name[len(owner) + 1 :] or name
        part = found[owner]
        part.payload[own] = replace(one, name=own)
        part.names = {**part.names, own: name}
    mistakes.check()
    return found


def joined(service: str, results: Sequence[DataObject]) -> list[DataObject]:
    """Return the results of one service among several, named as their message names them."""
    return [replace(one, name=f"{service}_{one.name}") for one in results]


def in_message(error: InvalidInput, fields: Mapping[str, str]) -> InvalidInput:
    """Return an error about an input with its fields named as in the message; ``fields`` maps the beginnings."""
    return type(error)([FieldProblem(field=_renamed(one.field, fields), detail=one.detail) for one in error.problems])


def _owner(name: str, services: Sequence[str]) -> str | None:
    fitting = [one for one in services if name == one or name.startswith(f"{one}_")]
    return max(fitting, key=len, default=None)


def _renamed(field: str, fields: Mapping[str, str]) -> str:
    begin = field
    while begin:
        if begin in fields:
            return fields[begin] + field[len(begin) :]
        begin = begin[: max(begin.rfind("."), begin.rfind("["), 0)]
    return field
