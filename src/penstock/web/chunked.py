"""The chunked transfer coding of request bodies (RFC 9112, section 7.1), decoded strictly."""

from __future__ import annotations

import re
from typing import Final

from penstock.web.problems import Refused

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")
_MAX_LINE_BYTES: Final = 4 * 1024  # a size with its extensions, or one trailer
_MAX_EXTENSION_BYTES: Final = 64 * 1024  # of all chunks of a body beyond the first 16 bytes of each size line
_MAX_TRAILER_BYTES: Final = 8 * 1024  # trailers are checked and dropped

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Turns the bytes of a chunked body into its content, however they are split."""

    __slots__ = ("_extensions", "_line", "_remaining", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._line = b""  # the beginning of a line that has not ended
        self._remaining = 0  # bytes of the current chunk
        self._extensions = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Decode ``data``; returns the content in it and what follows the body. Raises Refused."""
        content: list[bytes] = []
        position = 0
        while self._state != _DONE:
            if self._state == _DATA:
                piece = data[position : position + self._remaining]
                if not piece:
                    return content, b""
                content.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                if len(self._line) > _MAX_LINE_BYTES:
                    raise Refused(400, "a line of the chunked body is too long")
                return content, b""
            line = self._line + data[position : end + 1]
            self._line = b""
            position = end + 1
            self._read(line)
        return content, data[position:]

    def _read(self, line: bytes) -> None:
        """Take one whole line between chunks."""
        if not line.endswith(b"\r\n") or len(line) > _MAX_LINE_BYTES:
            raise Refused(400, "a line of the chunked body is too long, or does not end with CR LF")
        line = line[:-2]
        if self._state == _SIZE:
            self._begin_chunk(line)
        elif self._state == _DATA_END:
            if line:
                raise Refused(400, "a chunk of the body is longer than its stated size")
            self._state = _SIZE
        elif not line:
            self._state = _DONE
        else:
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILER_BYTES or not _TRAILER.fullmatch(line):
                raise Refused(400, "the trailers of the chunked body are too long or not valid")

    def _begin_chunk(self, line: bytes) -> None:
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            raise Refused(400, "a chunk of the body has no valid size")
        self._extensions += max(0, len(line) - 16)
        if self._extensions > _MAX_EXTENSION_BYTES:
            raise Refused(400, "the chunks of the body have too many extensions")
        self._remaining = int(size[1], 16)
        self._state = _DATA if self._remaining else _TRAILERS
