"""Bodies of type multipart/form-data: fields and files, read as they arrive."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.errors import MalformedBody, TooLarge
from penstock.web.request import Request

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 200
_MAX_HEADER_BYTES = 4096
_UNKNOWN = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One field or file."""

    name: str
    filename: str | None
    media_type: str | None  # in lower case, without parameters; guessed from the file's name if not stated
    data: bytes


async def read_form(request: Request, content_type: str) -> list[Part]:
    """Return all parts in order; raises MalformedBody or TooLarge. The route bounds the body as a whole."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedBody("the content type multipart/form-data needs a boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        async for chunk in request.chunks():
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError, ValueError) as error:
        raise MalformedBody(f"the body is not valid multipart/form-data: {error}") from None
    if not collector.complete:
        raise MalformedBody("the body ends before its last boundary")
    return collector.parts


class _Collector:
    """Builds parts from what the parser reports."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end_of_form,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise TooLarge(f"a form has at most {_MAX_PARTS} parts")
        self._headers, self._data = {}, []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._bound()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        if len(self._name) + len(self._value) > _MAX_HEADER_BYTES:
            raise TooLarge(f"a header of a part has more than {_MAX_HEADER_BYTES} bytes")

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode()
        if not name:
            raise MalformedBody("each part needs a Content-Disposition with a name")
        filename = options.get(b"filename")
        stated, _ = parse_options_header(self._headers.get(b"content-type", b""))
        self.parts.append(
            Part(
                name=name,
                filename=filename.decode() if filename is not None else None,
                media_type=_media_type(stated.decode("latin-1").lower(), filename),
                data=self._data[0] if len(self._data) == 1 else b"".join(self._data),
            )
        )

    def _end_of_form(self) -> None:
        self.complete = True


def _media_type(stated: str, filename: bytes | None) -> str | None:
    if filename is None or stated not in {"", _UNKNOWN}:
        return stated or None
    return mimetypes.guess_type(filename.decode())[0] or _UNKNOWN
