"""The properties of a model's input, as parameters and data objects of messages.

The model's JSON Schema decides. A property is

- **media** where its schema says ``"format": "media"``, or a list of them: data objects of the type that
  ``contentMediaType`` names, for a list ``NAME_1``, ``NAME_2``, …;
- **text** where it is a string without ``enum``, ``const``, ``format``, ``pattern`` and a ``maxLength`` up to 256 that
  the input requires, or whatever its ``x-payload`` says: a data object of type ``text``;
- **JSON** where it is an object or a list: a data object of type ``text`` whose format is ``json``;
- a **parameter** otherwise.

An input that is not an object is one data object, ``input``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from penstock.athena.protocol.data import DataType
from penstock.athena.protocol.media import type_of

WHOLE: Final = "input"  # the data object that is the whole input

_CHOICES: Final = ("anyOf", "oneOf", "allOf")
_SHORT: Final = 256  # characters of text that still is a parameter
_NOT_TEXT: Final = ("enum", "const", "format", "pattern")
_MAX_VISITED: Final = 200  # alternatives of one property


class Role(Enum):
    """The role of a property of an input in messages."""

    PARAMETER = "parameter"
    TEXT = "text"
    JSON = "json"
    MEDIA = "media"
    MEDIA_LIST = "media list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A property of a model's input."""

    name: str
    role: Role
    type: DataType  # of its data object
    types: frozenset[str]  # JSON types that it may have; empty: any
    schema: Mapping[str, Any]
    required: bool

    @property
    def may_be_text(self) -> bool:
        """Whether a string is among its values."""
        return not self.types or "string" in self.types

    @property
    def only_text(self) -> bool:
        """Whether its values are strings, and perhaps null."""
        return self.types - {"null"} == {"string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The properties of a model's input; ``whole`` is the input itself where it is not an object."""

    by_name: Mapping[str, Member]
    whole: Member | None = None
    open: bool = True  # other properties are allowed

    def list_of(self, name: str) -> tuple[Member, int] | None:
        """Return the list of media that a data object such as ``images_2`` is an item of, with its number."""
        begin, _, number = name.rpartition("_")
        found = self.by_name.get(begin)
        if found is None or found.role is not Role.MEDIA_LIST or name in self.by_name:
            return None
        return (found, int(number)) if number.isascii() and number.isdecimal() and len(number) < 6 else None


def members_of(schema: Mapping[str, Any]) -> Members:
    """Return the members of an input with that JSON Schema."""
    alternatives = list(alternatives_of(schema, schema))
    properties: dict[str, Any] = {}
    required: set[str] = set()
    for one in alternatives:
        stated = one.get("properties")
        properties |= stated if isinstance(stated, Mapping) else {}
        required |= {name for name in one.get("required", ()) if isinstance(name, str)}
    kinds = _types(alternatives)
    if not properties and kinds != frozenset({"object"}) and schema:
        whole = _member(WHOLE, schema, schema, required=True)
        return Members(by_name={}, whole=whole)
    found = {name: _member(name, one, schema, required=name in required) for name, one in properties.items()}
    return Members(by_name=found, open=all(one.get("additionalProperties") is not False for one in alternatives))


def _member(name: str, schema: Any, root: Mapping[str, Any], *, required: bool) -> Member:
    alternatives = list(alternatives_of(schema, root))
    media = _media(alternatives)
    items = [inner for one in alternatives for inner in alternatives_of(one.get("items"), root)]
    role, kind = Role.PARAMETER, DataType.TEXT
    types = _types(alternatives)
    if media is not None:
        role, kind = Role.MEDIA, media
    elif (media := _media(items)) is not None and types - {"null"} == {"array"}:
        role, kind = Role.MEDIA_LIST, media
    elif _is_payload(alternatives, required=required):
        role = Role.TEXT
    elif not types or types & {"object", "array"}:
        role = Role.JSON
    stated = schema if isinstance(schema, Mapping) else {}
    return Member(name=name, role=role, type=kind, types=types, schema=stated, required=required)


def _is_payload(alternatives: list[Mapping[str, Any]], *, required: bool) -> bool:
    """Return whether a string is a data object rather than a parameter."""
    if _types(alternatives) - {"null"} != {"string"}:
        return False
    for one in alternatives:
        if isinstance(one.get("x-payload"), bool):
            return bool(one["x-payload"])
    short = any(isinstance(one.get("maxLength"), int) and one["maxLength"] <= _SHORT for one in alternatives)
    return required and not short and not any(word in one for one in alternatives for word in _NOT_TEXT)


def _media(alternatives: list[Mapping[str, Any]]) -> DataType | None:
    for one in alternatives:
        if one.get("format") == "media":
            stated = one.get("contentMediaType")
            return type_of(stated) if isinstance(stated, str) else DataType.OTHER
    return None


def _types(alternatives: list[Mapping[str, Any]]) -> frozenset[str]:
    """Return the JSON types that a value may have; empty where a schema allows any."""
    found: set[str] = set()
    for one in alternatives:
        if "type" in one:
            stated = one["type"]
            found |= {stated} if isinstance(stated, str) else {kind for kind in stated if isinstance(kind, str)}
        elif "enum" in one or "const" in one:
            values = one["enum"] if isinstance(one.get("enum"), list) else [one.get("const")]
            found |= {_type_of(value) for value in values}
    return frozenset(found)


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def alternatives_of(schema: Any, root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and the alternatives in it, with references within ``root`` followed."""
    waiting, entered = [schema], set[int]()
    while waiting and len(entered) < _MAX_VISITED:
        one = waiting.pop()
        if not isinstance(one, Mapping) or id(one) in entered:
            continue
        entered.add(id(one))
        yield one
        for word in _CHOICES:
            stated = one.get(word)
            waiting += stated if isinstance(stated, list) else []
        waiting.append(_referred(one.get("$ref"), root))


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
