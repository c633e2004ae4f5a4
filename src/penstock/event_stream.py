"""Parse streams that arrive in pieces: lines of text, and server-sent events (WHATWG ``text/event-stream``)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be the first half of a CR LF
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LONGEST: Final = 2**24  # bytes
LARGEST_OWN: Final = 2**31  # bytes


class TooLong(ValueError):
    """A line or an event exceeds its limit."""


class Lines:
    """Splits bytes into lines, without their ends. Searches only new bytes, since a line may arrive byte by byte."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that end in this piece; raises TooLong."""
        if self._rest.endswith(b"\r"):
            piece = b"\r" + piece
            del self._rest[-1]
        first, *more = _LINE_END.split(piece)
        self._rest += first
        lines: list[bytes] = []
        for line in more:
            lines.append(bytes(self._rest))
            self._rest = bytearray(line)
        if len(self._rest) > self._longest:
            raise TooLong(f"a line exceeds {self._longest} bytes")
        return lines

    def end(self) -> list[bytes]:
        """Return the last line if the stream ended without a line break."""
        rest = bytes(self._rest.removesuffix(b"\r"))
        self._rest = bytearray()
        return [rest] if rest else []


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event, with only the fields that are used here."""

    name: str  # "message" if the stream names no type
    data: bytes
    id: str


class Events:
    """Parses bytes into events. Comments and other fields are ignored."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._lines = Lines(longest)
        self._longest = longest
        self._first = True
        self._name = ""
        self._id = ""
        self.last_id = ""  # of the last complete event, even if it had no data
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Return the events that end in this piece; raises TooLong."""
        return [event for line in self._lines.feed(piece) if (event := self._take(line)) is not None]

    def end(self) -> list[ServerEvent]:
        """Return the last event if the stream ended without its empty line, which some servers leave out."""
        return [event for line in [*self._lines.end(), b""] if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._first:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._first = False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._longest:
                raise TooLong(f"an event exceeds {self._longest} bytes")
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id":
            self._id = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_id = self._id
        event = ServerEvent(self._name or "message", b"\n".join(self._data), self._id) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """Parse a stream of Penstock's own: events may have any size, and an incomplete last event is dropped."""
    events = Events(LARGEST_OWN)
    async for piece in pieces:
        for event in events.feed(piece):
            yield event
