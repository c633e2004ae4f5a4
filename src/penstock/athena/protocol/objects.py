"""Data objects in JSON: read from messages with every mistake named, and written into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from penstock.athena.protocol import packing
from penstock.athena.protocol.data import TYPES, DataObject, DataType, Scalar, Status
from penstock.athena.protocol.mistakes import Mistakes, Path

_MAX_SEQ: Final = 2**63 - 1
_MAX_INTEGER: Final = 2**64  # what JSON of other languages holds, and msgspec writes
_STATUSES: Final = tuple(Status)
_PLAIN: Final = frozenset({str, float, bool})
_TYPE_NAMES: Final = "text, audio, image, video or other"


class ObjectReader:
    """Reads the data objects of one message. ``max_bytes`` bounds their data together, after unpacking."""

    def __init__(self, mistakes: Mistakes, *, max_bytes: int, max_fields: int, raw_text: bool = False) -> None:
        self.unmarked: set[str] = set()  # the objects whose status was not stated
        self._mistakes = mistakes
        self._max_bytes = self._left = max_bytes
        self._max_fields = max_fields
        self._raw_text = raw_text  # text is written as it is, not in base64

    def read(self, name: str, value: Any, types: Mapping[str, DataType]) -> DataObject | None:
        """Return the data object, or None after recording its mistakes.

        ``types`` has the types of objects by name, for one that holds no data: a session's last piece may lack it.
        """
        path: Path = ("payload", name)
        if not isinstance(value, dict):
            self._mistakes.add(path, f"must be an object that holds {_TYPE_NAMES}")
            return None
        kinds = [field for field in value if field in TYPES]
        if len(kinds) > 1:
            self._mistakes.add(path, f"must hold one of {_TYPE_NAMES}, not {' and '.join(sorted(kinds))}")
            return None
        fields = dict(value)
        kind = kinds[0] if kinds else None
        data = None if kind is None else fields.pop(kind)
        found = DataObject(name=name, type=types.get(name, DataType.TEXT) if kind is None else TYPES[kind])
        status = self.status(path, fields.pop("status", None))
        if status is None:
            self.unmarked.add(name)
        else:
            found.status = status
        found.seq = self._seq(path, fields.pop("seq", None))
        found.attributes = self.scalars(path, fields, "an attribute: attributes have one level")
        if kind is not None:
            found.data = self._data((*path, kind), data, found)
        elif found.status is not Status.END:
            self._mistakes.add(path, f"must hold data under {_TYPE_NAMES}; only a stream's end (status 2) may lack it")
        return found

    def scalars(self, path: Path, fields: Mapping[str, Any], what: str) -> dict[str, Scalar]:
        """Return the fields that are strings, numbers and booleans, without those that are null."""
        if not fields:
            return {}
        if len(fields) > self._max_fields:
            self._mistakes.add(path, f"has more than {self._max_fields} fields")
            return {}
        found: dict[str, Scalar] = {}
        for name, value in fields.items():
            if type(value) in _PLAIN or (isinstance(value, int) and abs(value) < _MAX_INTEGER):
                found[name] = value
            elif isinstance(value, int):
                self._mistakes.add((*path, name), "must be a number of at most 64 bits")
            elif value is not None:
                self._mistakes.add((*path, name), f"must be a string, a number or a boolean, because it is {what}")
        return found

    def status(self, path: Path, value: Any) -> Status | None:
        """Return a status that is stated as a number, or as its text; None where it is not stated or wrong."""
        if value is None:
            return None
        number = _integer(value)
        if number is None or not 0 <= number <= 3:
            self._mistakes.add((*path, "status"), "must be 0 (begin), 1 (continue), 2 (end) or 3 (once)")
            return None
        return _STATUSES[number]

    def _seq(self, path: Path, value: Any) -> int | None:
        if value is None:
            return None
        number = _integer(value)
        if number is None or not 0 <= number <= _MAX_SEQ:
            self._mistakes.add((*path, "seq"), "must be a whole number from 0 on")
            return None
        return number

    def _data(self, path: Path, value: Any, found: DataObject) -> bytes:
        try:
            data = self._plain(value, found)
        except packing.Undecodable as error:
            self._mistakes.add(path, str(error), in_data=True)
            return b""
        self._left -= len(data)
        if self._left < 0:
            self._left = 0
            self._mistakes.add(path, f"exceeds the {self._max_bytes} bytes that the data of a message may have")
            return b""
        return data

    def _plain(self, value: Any, found: DataObject) -> bytes:
        """Return the data as it was before base64, compression and its character set. Raises Undecodable."""
        if isinstance(value, str):
            if self._raw_text and found.type is DataType.TEXT:
                return value.encode()
            data = packing.from_base64(value)
            if found.attributes.get("compress") == "gzip":
                data = packing.from_gzip(data, self._left)
            if found.type is DataType.TEXT:
                data = packing.to_utf8(data, found.attributes.get("encoding"))
            return data
        if isinstance(value, dict | list | int | float):
            if isinstance(value, dict | list) or found.attributes.get("format") == "json":
                return _as_json(value)
        elif value is None and found.attributes.get("format") == "json":
            return b"null"
        raise packing.Undecodable("must be a string of base64, or JSON (an object or a list)")


def _as_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, RecursionError, ValueError):
        raise packing.Undecodable("holds JSON that is nested too deeply, or a number of more than 64 bits") from None


def _integer(value: Any) -> int | None:
    """Return a whole number that is stated as one, as a float or as its decimal text."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdecimal():
        return int(value)
    return None


def written(one: DataObject) -> dict[str, Any]:
    """Return a data object as the JSON of a response. Data of the format ``json`` is JSON in it, but a text in JSON
    stays base64, so that the two are distinct."""
    found: dict[str, Any] = dict(one.attributes)
    found["status"] = int(one.status)
    if one.seq is not None:
        found["seq"] = one.seq
    if one.attributes.get("format") == "json" and is_inline(one.data):
        found[one.type.value] = msgspec.Raw(one.data)
    else:
        found[one.type.value] = packed(one)  # bytes are encoded as base64
    return found


def packed(one: DataObject) -> bytes:
    """Return the data in the character set and compression that its attributes state."""
    data = packing.from_utf8(one.data, one.attributes.get("encoding")) if one.type is DataType.TEXT else one.data
    return packing.to_gzip(data) if one.attributes.get("compress") == "gzip" else data


def is_inline(data: bytes) -> bool:
    """Return whether data is JSON that a message holds as such: any value but a string."""
    if data.lstrip(b" \t\r\n")[:1] == b'"':
        return False
    try:
        data.decode()
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
