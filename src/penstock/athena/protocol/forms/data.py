"""Data objects and texts in the forms of the RPC.

The forms differ in their messages and agree on what these hold: a name, the number of a type, attributes as texts, and
bytes in the character set and compression that the attributes state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from penstock.athena.protocol import packing
from penstock.athena.protocol.data import TYPES, DataObject, DataType, Scalar, Status
from penstock.athena.protocol.forms.request import NotRepresentable
from penstock.athena.protocol.mistakes import Mistakes, Path
from penstock.athena.protocol.objects import packed
from penstock.athena.protocol.requests import Attributes, Limits
from penstock.models.replica.aiges.calls import text_of

_TYPES: Final = tuple(DataType)
_MAX_SEQ: Final = 2**63 - 1
_SEQ: Final = "seq"
_STATUS: Final = "status"
_DATA_TYPE: Final = "data_type"  # the attribute of an expected result that names its type in JSON


class Description(Protocol):
    """A description of data: ``protocol.MetaDesc`` or ``serverbiz.MetaDesc``."""

    @property
    def name(self) -> str: ...
    @property
    def dataType(self) -> int: ...  # noqa: N802 - its name in the messages
    @property
    def attribute(self) -> Mapping[str, str]: ...


class Piece(Protocol):
    """Data with its description: ``protocol.Payload`` or ``serverbiz.GeneralData``."""

    @property
    def meta(self) -> Description: ...
    @property
    def data(self) -> bytes: ...


def texts_of(values: Mapping[str, Scalar]) -> dict[str, str]:
    """Return values as the forms carry them."""
    return {name: text_of(value) for name, value in values.items()}


def attributes_of(one: DataObject, *, marked: bool = True) -> dict[str, str]:
    """Return the attributes of a data object as texts; its number is one, and its status unless it is not marked."""
    found = texts_of(one.attributes)
    if marked:
        found[_STATUS] = str(int(one.status))
    if one.seq is not None:
        found[_SEQ] = str(one.seq)
    return found


def expected_of(name: str, attributes: Mapping[str, Scalar]) -> tuple[DataType, dict[str, str]]:
    """Return the type of an expected result, which is text where it is not stated, and its attributes without it.

    Raises NotRepresentable for a type that is not known.
    """
    texts = texts_of(attributes)
    stated = texts.pop(_DATA_TYPE, DataType.TEXT.value)
    if stated not in TYPES:
        raise NotRepresentable(f"the expected result {name!r} has the data_type {stated!r}, which is not known")
    return TYPES[stated], texts


def bytes_of(one: DataObject) -> bytes:
    """Return the data in the character set and compression that its attributes state."""
    return packed(one)


class ObjectsReader:
    """Reads the data objects of one message, and collects its mistakes."""

    def __init__(self, mistakes: Mistakes, limits: Limits) -> None:
        self._mistakes = mistakes
        self._limits = limits
        self._left = limits.max_data_bytes
        self.found: dict[str, DataObject] = {}
        self.unmarked: set[str] = set()  # the objects whose status was not stated

    def header(self, path: Path, values: Mapping[str, str]) -> Attributes:
        """Return the fields of a header; its status is a number."""
        found = self.texts(path, values)
        status = self.status(path, found.get(_STATUS))
        if status is not None:
            found[_STATUS] = int(status)
        return found

    def expected(self, path: Path, results: Iterable[Description]) -> dict[str, Attributes]:
        """Return the attributes of expected results, each with its type, by name."""
        found: dict[str, Attributes] = {}
        for index, meta in enumerate(results):
            place = (*path, index)
            if index >= self._limits.max_objects:
                self.refuse(path, f"describes more than {self._limits.max_objects} results")
                break
            if meta.name in found:
                self.refuse(place, f"has the name {meta.name[:100]!r}, as another expected result has")
            found[meta.name] = self.texts(place, meta.attribute)
            found[meta.name][_DATA_TYPE] = self.type(place, meta.dataType).value
        return found

    def pieces(self, path: Path, pieces: Iterable[Piece]) -> dict[str, DataObject]:
        """Read all data objects of a message."""
        for index, one in enumerate(pieces):
            self.add((*path, index), one.meta.name, one.meta.dataType, one.meta.attribute, one.data)
        return self.found

    def add(self, path: Path, name: str, number: int, attributes: Mapping[str, str], data: bytes) -> None:
        """Read one object. ``number`` is that of its type."""
        if name in self.found:
            self._mistakes.add(path, f"has the name {name[:100]!r}, as another data object has")
            return
        if len(self.found) >= self._limits.max_objects:
            self._mistakes.add(path, f"is one too many: a message has at most {self._limits.max_objects} data objects")
            return
        texts = self.texts(path, attributes)
        found = DataObject(name=name, type=self.type(path, number))
        status = self.status(path, texts.pop(_STATUS, None))
        if status is None:
            self.unmarked.add(name)
        else:
            found.status = status
        found.seq = self._seq(path, texts.pop(_SEQ, None))
        found.attributes = texts
        found.data = self._plain(path, found, data)
        self.found[name] = found

    def refuse(self, path: Path, detail: str) -> None:
        """Record a mistake."""
        self._mistakes.add(path, detail)

    def texts(self, path: Path, values: Mapping[str, str]) -> Attributes:
        """Return the fields of a header, parameters or attributes."""
        if len(values) > self._limits.max_fields:
            self._mistakes.add(path, f"has more than {self._limits.max_fields} fields")
            return {}
        return dict(values)

    def type(self, path: Path, number: int) -> DataType:
        if not 0 <= number < len(_TYPES):
            self._mistakes.add((*path, "dataType"), "must be 0 (text), 1 (audio), 2 (image), 3 (video) or 4 (other)")
            return DataType.OTHER
        return _TYPES[number]

    def status(self, path: Path, text: Scalar | None) -> Status | None:
        if text is None:
            return None
        if not isinstance(text, str) or text not in {"0", "1", "2", "3"}:
            self._mistakes.add((*path, _STATUS), "must be 0 (begin), 1 (continue), 2 (end) or 3 (once)")
            return None
        return Status(int(text))

    def _seq(self, path: Path, text: Scalar | None) -> int | None:
        if text is None:
            return None
        if isinstance(text, str) and len(text) < 20 and text.isascii() and text.isdecimal() and int(text) <= _MAX_SEQ:
            return int(text)
        self._mistakes.add((*path, _SEQ), "must be a whole number from 0 on")
        return None

    def _plain(self, path: Path, one: DataObject, data: bytes) -> bytes:
        """Return the data as it was before compression and its character set."""
        try:
            if one.attributes.get("compress") == "gzip" and data:
                data = packing.from_gzip(data, self._left)
            if one.type is DataType.TEXT:
                data = packing.to_utf8(data, one.attributes.get("encoding"))
        except packing.Undecodable as error:
            self._mistakes.add((*path, one.type.value), str(error), in_data=True)
            return b""
        self._left -= len(data)
        if self._left < 0:
            self._left = 0
            self._mistakes.add(path, f"exceeds the {self._limits.max_data_bytes} bytes that a message's data may have")
            return b""
        return data
