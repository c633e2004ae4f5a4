"""The part of a message that is for one service, and the names of its fields and results in the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.athena.protocol.data import DataObject, Scalar
from penstock.athena.protocol.requests import RequestMessage
from penstock.errors import FieldProblem, InvalidInput

Attributes = dict[str, Scalar]


@dataclass(slots=True, kw_only=True)
class ServiceRequest:
    """The part of a message that is for one service."""

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
    if len(message.parameter) == 1:
        [(found.service, only)] = message.parameter.items()
        found.values, found.expected = only.values, only.expected
        return found
    for name in sorted(message.parameter, key=lambda one: one == service):  # stable: its own name is the last
        one = message.parameter[name]
        found.values |= one.values
        found.expected |= one.expected
    return found


def joined(service: str, results: Sequence[DataObject]) -> list[DataObject]:
    """Return the results of one service among several, named as their message names them."""
    return [replace(one, name=f"{service}_{one.name}") for one in results]


def in_message(error: InvalidInput, fields: Mapping[str, str]) -> InvalidInput:
    """Return an error about an input with its fields named as in the message; ``fields`` maps the beginnings."""
    return type(error)([FieldProblem(field=_renamed(one.field, fields), detail=one.detail) for one in error.problems])


def _renamed(field: str, fields: Mapping[str, str]) -> str:
    begin = field
    while begin:
        if begin in fields:
            return fields[begin] + field[len(begin) :]
        begin = begin[: max(begin.rfind("."), begin.rfind("["), 0)]
    return field
