"""The position of an event in the order of its tenant's events, and its wire format."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from penstock.errors import InvalidInput

WHOLE_ROW: Final = 2**31 - 1  # greater than the index of any event of a row
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def mark_of(at: datetime) -> int:
    """Return a row's time as a number. It tells rows with the same position apart if the store is ever restored."""
    return (at - _EPOCH) // timedelta(microseconds=1) % 2**32


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The position of the n-th event of a stored row in the order of all events; zeros lie before the first.

    On the wire it is ``number-index-mark``. Positions compare by number and index only.
    """

    number: int = 0  # dense and growing within a tenant
    index: int = 0  # 1 for the first event of the row
    mark: int = field(default=0, compare=False)

    @classmethod
    def parse(cls, text: str, field: str = "after") -> Position:
        """Read an event id; raises InvalidInput, which names ``field``."""
        parts = text.split("-")
        if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
            return cls(*map(int, parts))
        raise InvalidInput.of(field, "must be the id of an event that this service sent")

    def __str__(self) -> str:
        return f"{self.number}-{self.index}-{self.mark}"


START: Final = Position()
