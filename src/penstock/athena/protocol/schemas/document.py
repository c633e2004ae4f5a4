"""A document that describes a service: what its meta data state, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import TYPES, DataType
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.schemas.routing import SubRoutes
from penstock.errors import InvalidInput
from penstock.web.reading import decode

MAX_BYTES: Final = 1 << 20

_any: Final = msgspec.json.Decoder()
_MAX_SECONDS: Final = 86_400
_TYPE: Final = "dataType"


class Document:
    """A document in either dialect. Raises InvalidInput that names everything that is wrong with it."""

    def __init__(self, content: Any) -> None:
        mistakes = Mistakes()
        if not isinstance(content, dict):
            raise InvalidInput.of("body", "must be an object with meta, schemainput and schemaoutput")
        self.content: Mapping[str, Any] = content
        self.meta = _object(content, "meta", mistakes)
        self.given = _object(content, "schemainput", mistakes)
        self.returned = _object(content, "schemaoutput", mistakes)
        self.service_id = _text(self.meta, "serviceId", mistakes, required=True)
        self.version = _text(self.meta, "version", mistakes)
        self.sub = _text(self.meta, "sub", mistakes) or "ase"
        self.routes = _texts(self.meta, "route", mistakes)
        self.hosts = _texts(self.meta, "hosts", mistakes)
        self.services = _texts(self.meta, "service", mistakes) or [self.service_id]
        self.code_map = _object(self.meta, "codeMap", mistakes)
        for code, status in self.code_map.items():
            if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
                mistakes.add(("meta", "codeMap", code), "must be an HTTP status")
        self.build_header = _flag(self.meta, "build_header", mistakes)
        self.enable_client_session = _flag(self.meta, "enable_client_session", mistakes)
        self.enable_retry = _flag(self.meta, "enable_retry", mistakes)
        self.session_timeout = _seconds(self.meta, "session_timeout", mistakes)
        self.read_timeout = _seconds(self.meta, "read_timeout", mistakes)
        self.sub_routes = SubRoutes.of(self.meta, mistakes)
        self.input_types = self._types("input", mistakes)  # of data objects, by name, as the meta data state them
        self.output_types = self._types("accept", mistakes)  # of results, by name
        mistakes.check()

    @classmethod
    def read(cls, body: bytes) -> Document:
        """Return the document in a file. Raises MalformedBody and InvalidInput."""
        if len(body) > MAX_BYTES:
            raise InvalidInput.of("body", f"must have at most {MAX_BYTES} bytes")
        return cls(decode(body, _any))

    def _types(self, direction: str, mistakes: Mistakes) -> Mapping[str, DataType]:
        found: dict[str, DataType] = {}
        for service in self.services:
            stated = self.meta.get(service)
            objects = stated.get(direction) if isinstance(stated, Mapping) else None
            for name, one in objects.items() if isinstance(objects, Mapping) else ():
                kind = one.get(_TYPE) if isinstance(one, Mapping) else one
                if isinstance(kind, str) and kind in TYPES:
                    found[name] = TYPES[kind]
                elif kind not in (None, ""):
                    path = ("meta", service, direction, name, *((_TYPE,) if isinstance(one, Mapping) else ()))
                    mistakes.add(path, f"must be one of {', '.join(TYPES)}")
        return found


def properties_of(schema: Any) -> Mapping[str, Any]:
    """Return the properties that a schema of an object states."""
    stated = schema.get("properties") if isinstance(schema, Mapping) else None
    return stated if isinstance(stated, Mapping) else {}


def _object(parent: Mapping[str, Any], name: str, mistakes: Mistakes) -> dict[str, Any]:
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        mistakes.add((name,), "must be an object")
        return {}
    return value


def _text(meta: Mapping[str, Any], name: str, mistakes: Mistakes, *, required: bool = False) -> str:
    value = meta.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        mistakes.add(("meta", name), "must be a text" if value is not None else "is required")
        return ""
    return value


def _texts(meta: Mapping[str, Any], name: str, mistakes: Mistakes) -> list[str]:
    """Return a text, or a list of texts, as a list."""
    value = meta.get(name)
    values = value if isinstance(value, list) else [value] if value not in (None, "") else []
    if not all(isinstance(one, str) and one for one in values):
        mistakes.add(("meta", name), "must be a text, or a list of texts")
        return []
    return list(values)


def _flag(meta: Mapping[str, Any], name: str, mistakes: Mistakes) -> bool:
    value = meta.get(name, False)
    if not isinstance(value, bool):
        mistakes.add(("meta", name), "must be true or false")
    return value is True


def _seconds(meta: Mapping[str, Any], name: str, mistakes: Mistakes) -> timedelta | None:
    """Return a number of seconds; None where none is stated, or 0."""
    value = meta.get(name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6:
        value = int(value)
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_SECONDS:
        mistakes.add(("meta", name), f"must be a number of seconds up to {_MAX_SECONDS}")
        return None
    return timedelta(seconds=value)
