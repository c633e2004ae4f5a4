"""Request messages: header, parameter and payload, decoded from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import DataObject, DataType, Scalar, Status
from penstock.athena.protocol.mistakes import Mistakes, Path
from penstock.athena.protocol.objects import ObjectReader
from penstock.errors import InvalidInput
from penstock.models.replica.aiges.calls import text_of
from penstock.web.reading import decode

Attributes = dict[str, Scalar]

_any: Final = msgspec.json.Decoder()
_SECTIONS: Final = frozenset({"header", "parameter", "payload"})
_NO_TYPES: Final[Mapping[str, DataType]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one message beside that of its body."""

    max_data_bytes: int = 32 << 20  # of all data of a message, after unpacking
    max_objects: int = 64  # data objects, services, and results of a service
    max_fields: int = 256  # of the header, of a service's parameters, of an object's attributes


DEFAULT: Final = Limits()


@dataclass(slots=True, kw_only=True)
class ServiceParameter:
    """The parameters of a request for one service."""

    values: Attributes = field(default_factory=dict)
    expected: dict[str, Attributes] = field(default_factory=dict)  # the results it expects, with their attributes


@dataclass(slots=True, kw_only=True)
class RequestMessage:
    """One message of a client. The messages after the first of a session may have a payload only."""

    header: Attributes = field(default_factory=dict)
    parameter: dict[str, ServiceParameter] = field(default_factory=dict)  # by service
    payload: dict[str, DataObject] = field(default_factory=dict)  # by name
    unmarked: frozenset[str] = frozenset()  # the data objects whose status was not stated and is assumed to be 3

    @property
    def app_id(self) -> str:
        """The app id; empty where none is stated. Both spellings occur."""
        return self.text("appid") or self.text("app_id")

    @property
    def stated_status(self) -> Status | None:
        """The status that the header states."""
        stated = self.header.get("status")
        return Status(stated) if isinstance(stated, int) else None

    @property
    def status(self) -> Status | None:
        """The status that the header states, or else the one that all data objects share."""
        stated = self.stated_status
        if stated is not None:
            return stated
        found = {one.status for one in self.payload.values()}
        return found.pop() if len(found) == 1 else None

    def text(self, name: str) -> str:
        """Return a field of the header as text; empty where it is not stated."""
        return text_of(self.header.get(name, ""))


def decode_request(
    body: bytes, *, limits: Limits = DEFAULT, types: Mapping[str, DataType] = _NO_TYPES
) -> RequestMessage:
    """Return a client's message.

    ``types`` are the types of a session's data objects by name, for a last piece that holds no data. Raises
    MalformedBody for a body that is not JSON, InvalidInput that names each wrong field, and DataUndecodable (an
    InvalidInput) where only data is not what the message states.
    """
    return read_request(message_in(body), limits=limits, types=types)


def message_in(body: bytes) -> dict[str, Any]:
    """Return the JSON of a message, for the rules of a schema. Raises MalformedBody and InvalidInput."""
    value = decode(body, _any)
    if not isinstance(value, dict):
        raise InvalidInput.of("body", "must be a JSON object with header, parameter and payload")
    return value


def read_request(
    message: dict[str, Any], *, limits: Limits = DEFAULT, types: Mapping[str, DataType] = _NO_TYPES
) -> RequestMessage:
    """Return a client's message from its JSON, as ``decode_request`` does from its bytes."""
    return _Reader(limits).read(message, types)


class _Reader:
    """Reads one message and collects its mistakes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._mistakes = Mistakes()
        self._objects = ObjectReader(self._mistakes, max_bytes=limits.max_data_bytes, max_fields=limits.max_fields)

    def read(self, value: dict[str, Any], types: Mapping[str, DataType]) -> RequestMessage:
        for name in value.keys() - _SECTIONS:
            self._mistakes.add((name,), "is not part of a message; it has header, parameter and payload")
        found = RequestMessage(header=self._header(value.get("header")))
        for service, stated in self._section(("parameter",), value.get("parameter")).items():
            found.parameter[service] = self._service(service, stated)
        for name, stated in self._section(("payload",), value.get("payload")).items():
            one = self._objects.read(name, stated, types)
            if one is not None:
                found.payload[name] = one
        found.unmarked = frozenset(self._objects.unmarked)
        self._mistakes.check()
        return found

    def _header(self, value: Any) -> Attributes:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._mistakes.add(("header",), "must be an object")
            return {}
        found = self._objects.scalars(("header",), value, "a field of the header, which has one level")
        status = self._objects.status(("header",), value.get("status"))
        if status is not None:
            found["status"] = int(status)
        return found

    def _section(self, path: Path, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._mistakes.add(path, "must be an object")
            return {}
        if len(value) > self._limits.max_objects:
            self._mistakes.add(path, f"has more than {self._limits.max_objects} members")
            return {}
        return value

    def _service(self, service: str, value: Any) -> ServiceParameter:
        """Return the parameters of a service: scalars, and an object for each result that the request expects."""
        path: Path = ("parameter", service)
        if not isinstance(value, dict):
            self._mistakes.add(path, "must be an object with the parameters of the service of this name")
            return ServiceParameter()
        scalars: dict[str, Any] = {}
        objects: dict[str, dict[str, Any]] = {}
        for name, one in value.items():
            (objects if isinstance(one, dict) else scalars)[name] = one
        if len(objects) > self._limits.max_objects:
            self._mistakes.add(path, f"describes more than {self._limits.max_objects} results")
            return ServiceParameter()
        expected = {
            name: self._objects.scalars((*path, name), one, "an attribute of a result: attributes have one level")
            for name, one in objects.items()
        }
        return ServiceParameter(
            values=self._objects.scalars(path, scalars, "a parameter; only a result is described by an object"),
            expected=expected,
        )
