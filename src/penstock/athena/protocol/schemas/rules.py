"""What a document does with the messages of its service: defaults, constants, checks, names, and the header returned.

``constVal`` sets a value whatever the client states, ``defaultVal`` one that it does not state, ``replaceKey`` renames
a member for the engine. Checks see the names of clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from penstock.athena.protocol.data import DataObject, DataType, Scalar, text_of
from penstock.athena.protocol.schemas.document import Document, properties_of
from penstock.models.checking import Checker

_MAX_DEPTH: Final = 30  # levels of a schema at which rules may stand
_SECTIONS: Final = {
    "header": 0,
    "parameter": 2,
    "payload": None,
}  # levels of members that rules may add; None: not even it
_OF_TEXT: Final = ("encoding", "compress", "format")
_NUMBERS: Final = frozenset({"integer", "number"})
_FROM_TEXT: Final = frozenset({"integer", "number", "boolean"})


class Rules:
    """Applies a document to messages. Made once per document; raises InvalidInput for a schema that is not valid."""

    def __init__(self, document: Document) -> None:
        Checker.check_schema(document.given, "schemainput")
        self._document = document
        self._first = Checker(document.given, owner="service")
        self._later = Checker(_without_required(document.given), owner="service")
        self._header = properties_of(properties_of(document.given).get("header"))

    def first(self, message: dict[str, Any], *, app_id: str = "") -> dict[str, Any]:
        """Return a first, or only, message as the engine should see it; the message itself is changed.

        ``app_id`` is that of the sender's key, for a message that states none. Raises InvalidInput that names fields.
        """
        self._complete_header(message, app_id)
        schema = self._document.given
        for name, grow in _SECTIONS.items():
            inner = properties_of(schema).get(name)
            if name not in message and grow is not None and _sets_something(inner):
                message[name] = {}
            _fill(inner, message.get(name), grow=grow or 0)
        _convert(schema, message)
        self._first.check(message)
        _rename(schema, message)
        return message

    def later(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a later message of a session, of which nothing is required; the message itself is changed."""
        _fill(self._document.given, message, grow=0)
        _convert(self._document.given, message)
        self._later.check(message)
        _rename(self._document.given, message)
        return message

    def _complete_header(self, message: dict[str, Any], app_id: str) -> None:
        """State the app id under the name that the schema knows: both spellings occur."""
        header = message.setdefault("header", {})
        if not isinstance(header, dict):
            return
        stated = header.get("appid") or header.get("app_id") or app_id
        if isinstance(stated, int) and not isinstance(stated, bool):
            stated = str(stated)
        for name in ("appid", "app_id"):
            if stated and (name in self._header or name in header):
                header[name] = stated

    def cast(self, results: Sequence[DataObject]) -> None:
        """Complete the attributes of results: those of text by the defaults in the document, all in its types."""
        payload = properties_of(properties_of(self._document.returned).get("payload"))
        for one in results:
            types = properties_of(payload.get(one.name))
            if one.type is DataType.TEXT:
                for name in _OF_TEXT:
                    default = _default_of(types.get(name))
                    if isinstance(default, str) and name not in one.attributes:
                        one.attributes[name] = default
            for name, value in one.attributes.items():
                schema = types.get(name)
                if isinstance(schema, Mapping):
                    one.attributes[name] = as_type(value, schema.get("type"))

    def response_header(self, header: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return the fields of a request's header that its response repeats."""
        if not self._document.build_header:
            return {}
        found = {name: header[name] for name in self._header if name in header}
        types = {name: one.get("type") if isinstance(one, Mapping) else None for name, one in self._header.items()}
        return {name: as_type(value, types[name]) for name, value in found.items()}


def _default_of(schema: Any) -> Any:
    return schema.get("defaultVal", schema.get("default")) if isinstance(schema, Mapping) else None


def as_type(value: Scalar, kind: Any) -> Scalar:
    """Return a value as a JSON type, where it can be one."""
    if kind == "string":
        return text_of(value)
    if not isinstance(kind, str):
        return value
    if kind in _NUMBERS and isinstance(value, str):
        try:
            return int(value) if len(value) < 20 else value
        except ValueError:
            pass
        try:
            number = float(value)
        except ValueError:
            return value
        return number if number - number == 0 else value  # not inf, not nan
    if kind in {"boolean", "bool"} and value in ("true", "false"):
        return value == "true"
    return value


def _fill(schema: Any, value: Any, *, grow: int, depth: int = 0) -> None:
    """Set constants and defaults in a value; ``grow`` levels of members are made where rules set something in them."""
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
        return
    if isinstance(value, list):
        for one in value:
            _fill(schema.get("items"), one, grow=0, depth=depth + 1)
    if not isinstance(value, dict):
        return
    for name, inner in properties_of(schema).items():
        if not isinstance(inner, Mapping):
            continue
        if "constVal" in inner:
            value[name] = deepcopy(inner["constVal"])
        elif name not in value and "defaultVal" in inner:
            value[name] = deepcopy(inner["defaultVal"])
        elif name not in value and grow and _sets_something(inner):
            value[name] = {}
        if name in value:
            _fill(inner, value[name], grow=max(grow - 1, 0), depth=depth + 1)


def _sets_something(schema: Any, depth: int = 0) -> bool:
    """Return whether rules set members of an object, so that it is needed."""
    return depth < _MAX_DEPTH and any(
        isinstance(one, Mapping) and ("constVal" in one or "defaultVal" in one or _sets_something(one, depth + 1))
        for one in properties_of(schema).values()
    )


def _convert(schema: Any, value: Any, depth: int = 0) -> None:
    """Turn texts into the numbers and booleans that the schema wants: clients of the original send texts."""
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping) or not isinstance(value, dict):
        return
    for name, inner in properties_of(schema).items():
        one = value.get(name)
        if isinstance(one, str) and isinstance(inner, Mapping) and inner.get("type") in _FROM_TEXT:
            value[name] = as_type(one, inner["type"])
        elif isinstance(one, dict):
            _convert(inner, one, depth + 1)


def _rename(schema: Any, value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
        return
    if isinstance(value, list):
        for one in value:
            _rename(schema.get("items"), one, depth + 1)
    if not isinstance(value, dict):
        return
    renamed: dict[str, Any] = {}
    for name, inner in properties_of(schema).items():
        if name not in value or not isinstance(inner, Mapping):
            continue
        _rename(inner, value[name], depth + 1)
        other = inner.get("replaceKey")
        if isinstance(other, str) and other and other != name:
            renamed[other] = value.pop(name)
    value |= renamed


def _without_required(schema: Any, depth: int = 0) -> dict[str, Any]:
    """Return a schema in which no member of header, parameter, payload and their members is required."""
    found = {name: one for name, one in schema.items() if name != "required"}
    if depth < 3:
        for word in ("properties", "patternProperties"):
            if isinstance(found.get(word), Mapping):
                found[word] = {
                    name: _without_required(one, depth + 1) if isinstance(one, Mapping) else one
                    for name, one in found[word].items()
                }
    return found
