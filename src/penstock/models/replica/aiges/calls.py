"""The call of an engine: from JSON and media to parameters and data objects, and from data objects back.

A call, and each part of a session::

    {"header": {"sid": "…"}, "parameter": {"lang": "en", "boxes": {"format": "json"}},
     "payload": {"img": {"image": <media>, "encoding": "jpg", "status": 3}}}

A result, and each chunk of a session::

    {"payload": {"boxes": {"text": "[…]", "status": 3}}}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.models import media_types
from penstock.models.replica.aiges.kinds import NAMES, ONCE, TEXT
from penstock.models.replica.data_urls import Unreadable, segment_of
from penstock.models.replica.runtime import Output, Segment

Scalar = str | bool | int | float

_STATED: Final = frozenset((*NAMES, "status"))  # keys of a data object that are not attributes


@dataclass(slots=True)
class Item:
    """A data object as engines see it."""

    key: str
    data: bytes | memoryview = b""  # an input's may be in memory that is reused when its call or part has ended
    kind: int = TEXT
    status: int = ONCE
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class EngineCall:
    """A call, or a part of a session, as engines see it: all values of parameters are text."""

    header: dict[str, str]
    params: dict[str, str]
    expected: dict[str, dict[str, str]]  # the outputs that the caller expects, with their attributes
    items: list[Item]

    def passed(self, header_pass: Iterable[str], sid: str) -> dict[str, str]:
        """Return the parameters together with the fields of the header that engines get as parameters, and the sid."""
        header = {name: self.header[name] for name in header_pass if name in self.header}
        return {**header, **self.params, "sid": sid}


class _Stated(Struct):
    header: dict[str, Scalar | None] = {}
    parameter: dict[str, Scalar | dict[str, Scalar | None] | None] = {}
    payload: dict[str, dict[str, Scalar | None]] = {}


_decode = msgspec.json.Decoder(_Stated).decode


def read(json: bytes, segments: Sequence[Segment]) -> EngineCall:
    """Return a call, or a part of a session. Raises CallFailed (``bad_input``) with the field that is wrong."""
    try:
        stated = _decode(json)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(None, f"is not the call of an engine: {error}") from None
    media = {segment.path: segment for segment in segments}
    expected = {key: _texts(value) for key, value in stated.parameter.items() if isinstance(value, dict)}
    items = [_item(key, value, media) for key, value in stated.payload.items()]
    return EngineCall(_texts(stated.header), _texts(stated.parameter), expected, items)


def write(items: Sequence[Item]) -> Output:
    """Return data objects as a result or chunk. Of several with one key the last stays."""
    payload: dict[str, dict[str, Any]] = {}
    segments: dict[str, Segment] = {}
    for item in items:
        name = NAMES[item.kind]
        text = _text(item.data) if item.kind == TEXT else None
        segments.pop(item.key, None)
        payload[item.key] = {**item.attributes, name: text, "status": item.status}
        if text is None:
            path = ("payload", item.key, name)
            segments[item.key] = Segment(item.data, media_type(item.data), path)
    return Output(msgspec.json.encode({"payload": payload}), list(segments.values()))


def with_usage(output: Output, usage: Mapping[str, int]) -> Output:
    """Add what the engine counted for a call to its result, under ``usage``."""
    if not usage:
        return output
    return Output(output.json[:-1] + b',"usage":' + msgspec.json.encode(usage) + b"}", output.segments)


def text_of(value: Scalar) -> str:
    """Return a parameter as engines get it: ``true``, ``16000``, ``0.5``; numbers never have an exponent."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return format(Decimal(repr(value)).normalize(), "f") if math.isfinite(value) else repr(value)


def media_type(data: bytes | memoryview) -> str:
    return media_types.by_first_bytes(bytes(data[:16])) or media_types.UNKNOWN


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: text_of(value) for key, value in values.items() if value is not None and not isinstance(value, dict)}


def _item(key: str, stated: Mapping[str, Scalar | None], media: Mapping[tuple[str | int, ...], Segment]) -> Item:
    names = [name for name in NAMES if name in stated]
    if len(names) != 1:
        raise _bad(f"payload.{key}", f"must hold one of {', '.join(NAMES)}{'' if not names else ', not several'}")
    (name,) = names
    status = stated.get("status", ONCE)
    if isinstance(status, bool) or not isinstance(status, int) or not 0 <= status <= ONCE:
        raise _bad(f"payload.{key}.status", "must be 0 (begin), 1 (continue), 2 (end) or 3 (once)")
    attributes = _texts({attribute: value for attribute, value in stated.items() if attribute not in _STATED})
    path = ("payload", key, name)
    segment = media.get(path)
    data = _inline(path, stated[name]) if segment is None else segment.in_memory()
    return Item(key, data, NAMES.index(name), status, attributes)


def _inline(path: tuple[str | int, ...], value: Scalar | None) -> bytes | memoryview:
    """Return data that stands in the JSON itself: text, or a ``data:`` URL."""
    if path[-1] == "text" and isinstance(value, str):
        return value.encode()
    if not isinstance(value, str) or not value.startswith("data:"):
        raise _bad(dotted(path), "must be text" if path[-1] == "text" else "must be media: bytes, or a data: URL")
    try:
        return segment_of(value, path).in_memory()
    except Unreadable as error:
        raise _bad(error.field, error.message) from None


def _text(data: bytes | memoryview) -> str | None:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return None


def _bad(where: str | None, message: str) -> CallFailed:
    return CallFailed(Category.BAD_INPUT, message, field=where)
