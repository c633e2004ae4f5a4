"""The documents that describe a service, in the two dialects of Athena Serving.

The **legacy** dialect is what ``WrapperBase.schema()`` makes. The **current** one (aipaas) is what the loader requests:
it describes the expected results too, and states defaults as ``defaultVal``. Both keep every limit that is declared,
and add none: encodings and formats that engines commonly have are examples. What has a default is not required.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from penstock.athena.protocol.data import DataType
from penstock.athena.protocol.schemas.description import DataOf, Description, ParameterOf

_MAX_NAME: Final = 50  # characters of a field of the header
_ENCODINGS: Final = {
    DataType.TEXT: ("utf8", "gb2312", "gbk"),
    DataType.IMAGE: ("jpg", "jpeg", "png", "bmp"),
    DataType.AUDIO: ("raw", "pcm", "wav", "mp3", "opus", "speex"),
    DataType.VIDEO: (),
    DataType.OTHER: (),
}
_META: Final = frozenset(r".^$*+?()[]{}|\/")  # characters with a meaning in regular expressions
_COMPRESS: Final = ("raw", "gzip")
_FORMATS: Final = ("plain", "json", "xml")
_LEGACY_HEADER: Final = (
    "appid", "uid", "device_id", "device.imei", "device.imsi", "device.mac", "device.other", "net.type", "net.isp",
    "app.ver",
)  # fmt: skip
_HEADER: Final = ("appid", "uid", "device_id", "imei", "imsi", "mac", "net_type", "net_isp")


class Dialect(StrEnum):
    """The dialect of a document."""

    LEGACY = "legacy"
    CURRENT = "current"


def document_of(description: Description, dialect: Dialect = Dialect.CURRENT) -> dict[str, Any]:
    """Return the document that describes a service."""
    legacy = dialect is Dialect.LEGACY
    writer = _Writer("default" if legacy else "defaultVal", statuses=_statuses(description))
    parts: dict[str, Any] = {
        "header": _legacy_header() if legacy else writer.header(),
        "parameter": writer.parameter(description, with_results=not legacy),
        "payload": writer.payload(description.inputs, dialect),
    }
    given: dict[str, Any] = {"type": "object", "properties": parts}
    if not description.sessions:  # the later messages of a session omit header and parameter
        given["required"] = [name for name, one in parts.items() if one.get("required")]
    returned = {"type": "object", "properties": {"payload": writer.payload(description.outputs, dialect)}}
    return {"meta": _meta(description, legacy=legacy), "schemainput": given, "schemaoutput": returned}


def _statuses(description: Description) -> list[int]:
    return [0, 1, 2, 3] if description.sessions else [3]


def _meta(description: Description, *, legacy: bool) -> dict[str, Any]:
    number = description.call_type
    meta: dict[str, Any] = {
        "serviceId": description.name,
        "version": description.version,
        "route": description.path,
        "sub": description.sub,
        "call": description.call,
        "call_type": int(number) if legacy and number.isascii() and number.isdecimal() else number,
        "hosts": description.hosts,
        "service": [description.name],
    }
    if legacy:
        meta["routeKey"] = []
    else:
        meta["webgate_type"] = description.webgate_type
    meta[description.name] = {
        "input": {one.key: {"dataType": one.type.value} for one in description.inputs},
        "accept": {one.key: {"dataType": one.type.value} for one in description.outputs},
    }
    return meta


def _legacy_header() -> dict[str, Any]:
    properties = {name: {"type": "string", "maxLength": _MAX_NAME} for name in _LEGACY_HEADER}
    return {"type": "object", "properties": properties, "required": ["appid"]}


class _Writer:
    """Writes the parts of a document; ``default`` is the keyword of defaults."""

    def __init__(self, default: str, *, statuses: Sequence[int]) -> None:
        self._default = default
        self._statuses = list(statuses)

    def header(self) -> dict[str, Any]:
        properties: dict[str, Any] = {name: {"type": "string", "maxLength": _MAX_NAME} for name in _HEADER}
        properties["res_id"] = {"type": "string", "maxLength": 1024}
        properties["status"] = self._status()
        return {"type": "object", "properties": properties, "required": ["appid"]}

    def parameter(self, description: Description, *, with_results: bool) -> dict[str, Any]:
        properties = {one.key: self._parameter(one) for one in description.parameters}
        if with_results:
            properties |= {one.key: self._expected(one) for one in description.outputs if one.key not in properties}
        service: dict[str, Any] = {"type": "object", "properties": properties}
        required = [
            one.key for one in description.parameters if one.required and self._default not in properties[one.key]
        ]
        if required:
            service["required"] = required
        found: dict[str, Any] = {"type": "object", "properties": {description.name: service}}
        return found | ({"required": [description.name]} if required else {})

    def _parameter(self, one: ParameterOf) -> dict[str, Any]:
        schema = dict(one.schema)
        if "default" in schema and self._default != "default":
            schema[self._default] = schema.pop("default")
        return schema

    def payload(self, objects: Sequence[DataOf], dialect: Dialect) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": "object",
            "properties": {one.key: self._object(one, dialect) for one in objects},
        }
        several = {f"^{_escaped(one.key[:-1])}[0-9]+$": self._object(one, dialect) for one in objects if one.many}
        if several:
            found["patternProperties"] = several
        required = [one.key for one in objects if one.required and not one.many]
        return found | ({"required": required} if required else {})

    def _object(self, one: DataOf, dialect: Dialect) -> dict[str, Any]:
        """Return the schema of a data object."""
        properties = self._attributes(one)
        properties["status"] = self._status()
        properties["seq"] = {"type": "integer", "minimum": 0}
        data: dict[str, Any] = {"type": ["string", "object", "array"] if one.format == "json" else "string"}
        if self._statuses == [3]:
            data["minLength"] = 1
        if one.example:
            data["examples"] = [one.example]
        properties[one.type.value] = data
        if dialect is Dialect.CURRENT:
            properties["data_type"] = {"type": "string", self._default: one.type.value}
        found: dict[str, Any] = {"type": "object", "properties": properties}
        stated = {"title": one.title, "description": one.description}
        found |= {name: text for name, text in stated.items() if text}
        return found | ({"required": [one.type.value]} if self._statuses == [3] else {})

    def _attributes(self, one: DataOf) -> dict[str, Any]:
        """Return the attributes by which data of that type is described."""
        found: dict[str, Any] = {}
        encodings = _ENCODINGS[one.type]
        if encodings or one.encoding:
            found["encoding"] = self._choice(
                encodings, one.encoding or (encodings[0] if one.type is DataType.TEXT else "")
            )
        if one.type is DataType.TEXT:
            found["compress"] = self._choice(_COMPRESS, one.compress or "raw")
            found["format"] = self._choice(_FORMATS, one.format or "plain")
        if one.type is DataType.AUDIO:
            found["sample_rate"] = {"type": "integer", "minimum": 1}
            found["bit_depth"] = {"type": "integer", "minimum": 1}
            found["channels"] = {"type": "integer", "minimum": 1}
        return found

    def _choice(self, known: Sequence[str], preferred: str) -> dict[str, Any]:
        values = list(dict.fromkeys([*known, preferred])) if preferred else list(known)
        found: dict[str, Any] = {"type": "string"}
        if known:
            found["examples"] = values
        return found | ({self._default: preferred} if preferred else {})

    def _expected(self, one: DataOf) -> dict[str, Any]:
        """Return the schema of the object that describes an expected result."""
        properties = self._attributes(one)
        properties["data_type"] = {"type": "string", "examples": [one.type.value]}
        for schema in properties.values():
            if self._default in schema:  # only shown: what the engine states counts where the client states nothing
                schema["default"] = schema.pop(self._default)
        return {"type": "object", "properties": properties}

    def _status(self) -> dict[str, Any]:
        return {"type": "integer", "enum": self._statuses, self._default: 3}


def _escaped(text: str) -> str:
    """Return text as a regular expression that matches it, in every dialect of these."""
    return "".join(f"\\{letter}" if letter in _META else letter for letter in text)
