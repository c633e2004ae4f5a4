"""The bytes of a connection that belong to no request yet."""

from __future__ import annotations

from typing import Final

from penstock.web.head import Head, parse, refuse_unfinished
from penstock.web.incoming import IncomingBody
from penstock.web.limits import Limits

_END_OF_HEAD: Final = b"\r\n\r\n"
_LINE_BREAKS: Final = b"\r\n"
_FIRST_PIECE_BYTES: Final = 4 * 1024


class HeadBuffer:
    """Holds an unfinished head, or requests that wait for the current one.

    What is used up is removed from the start of the buffer, which does not move the rest: a client that pipelines many
    requests must not cause many copies.
    """

    __slots__ = ("_data", "_limits", "_searched")

    def __init__(self, limits: Limits) -> None:
        self._data = bytearray()
        self._searched = 0  # bytes that were searched for the end of a head
        self._limits = limits

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        self._data += data

    def clear(self) -> bytes:
        """Remove all bytes and return them."""
        data, self._data, self._searched = bytes(self._data), bytearray(), 0
        return data

    def take_head(self, arrived: bytes = b"") -> tuple[Head, bytes] | None:
        """Take the head at the start of the buffer, or return None while it is not whole. Raises Refused.

        ``arrived`` are bytes for an empty buffer: what follows their head is returned with it, not kept here.
        """
        data: bytes | bytearray = arrived or self._data
        if data[0] in _LINE_BREAKS:  # line breaks before a request are ignored (RFC 9112, section 2.2)
            data = arrived.lstrip(_LINE_BREAKS) if arrived else self._without_line_breaks()
            if not data:
                return None
        end = data.find(_END_OF_HEAD, self._searched)
        if not 0 <= end <= self._limits.head_bytes - 4:
            refuse_unfinished(data, self._limits)
            if arrived:
                self._data += data
            self._searched = max(0, len(data) - 3)
            return None
        end += 4
        self._searched = 0
        head = parse(bytes(data[:end]), self._limits)
        if arrived:
            return head, bytes(data[end:])
        del self._data[:end]
        return head, b""

    def move_body(self, incoming: IncomingBody) -> None:
        """Move the body of a request from the start of the buffer, as far as it is there.

        Pieces begin small and grow, because other requests may follow a small body.
        """
        data, size = self._data, _FIRST_PIECE_BYTES
        incoming.receive(b"")  # which ends a body of no bytes
        while data and not incoming.ends and not incoming.broken:
            piece = bytes(data[:size])
            del data[: len(piece) - len(incoming.receive(piece))]
            size *= 2
        if incoming.broken:
            data.clear()

    def _without_line_breaks(self) -> bytearray:
        data, count = self._data, 0
        while count < len(data) and data[count] in _LINE_BREAKS:
            count += 1
        del data[:count]
        self._searched = 0
        return data
