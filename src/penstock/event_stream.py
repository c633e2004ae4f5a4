"""Streams as they come in pieces: lines of text, and server-sent events (the WHATWG's ``text/event-stream``)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be the half of one
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LONGEST: Final = 2**24  # bytes
LARGEST_OWN: Final = 2**31  # bytes


class TooLong(ValueError):
    """A line, or an event, is longer than is allowed."""


class Lines:
    """Bytes in, whole lines out, without their ends. Only what is new is searched: a line may come byte by byte."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that a piece ends; raises TooLong."""
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
        """The last line, if the stream ended without ending it."""
        rest = bytes(self._rest.removesuffix(b"\r"))
        self._rest = bytearray()
        return [rest] if rest else []


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; of its fields those that are used here."""

    name: str  # "message" where the stream names none
    data: bytes
    id: str


class Events:
    """Bytes in, events out. Comments and other fields are passed over."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._lines = Lines(longest)
        self._longest = longest
        self._first = True
        self._name = ""
        self._id = ""
        self.last_id = ""  # of the last event that is complete, even one without data
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that a piece ends; raises TooLong."""
        return [event for line in self._lines.feed(piece) if (event := self._take(line)) is not None]

    def end(self) -> list[ServerEvent]:
        """The last event of a stream that ended without ending it: some servers leave out the last empty line."""
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
    """The events of a stream of our own: however large they are, and none that was cut off."""
    events = Events(LARGEST_OWN)
    async for piece in pieces:
        for event in events.feed(piece):
            yield event
