"""Data objects: the typed pieces of data that requests and responses carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

Scalar = str | int | float | bool


class DataType(StrEnum):
    """The type of a data object. Its value names the field that holds the data in a message."""

    TEXT = "text"
    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"
    OTHER = "other"

    @property
    def number(self) -> int:
        """The number of the type in the RPC forms and in the interfaces of engines."""
        return _NUMBERS[self]


_TYPES: Final = tuple(DataType)
_NUMBERS: Final = {one: number for number, one in enumerate(_TYPES)}
TYPES: Final[Mapping[str, DataType]] = {one.value: one for one in _TYPES}


class Status(IntEnum):
    """The place of a piece of data in its stream."""

    BEGIN = 0
    CONTINUE = 1
    END = 2
    ONCE = 3  # the whole in one piece

    @property
    def last(self) -> bool:
        """Whether no piece follows."""
        return self >= Status.END


@dataclass(slots=True, kw_only=True)
class DataObject:
    """One piece of data with its name.

    ``data`` is plain: UTF-8 where text states an encoding or none and is valid, and not compressed, whatever
    ``attributes`` state. Encoding a message applies them, decoding one undoes them.
    """

    name: str
    type: DataType = DataType.TEXT
    data: bytes = b""
    status: Status = Status.ONCE
    seq: int | None = None
    attributes: dict[str, Scalar] = field(default_factory=dict)  # encoding, compress, format, sample_rate, custom ones
