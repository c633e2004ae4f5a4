"""Bodies of type multipart/form-data: fields and files, read as they arrive."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.errors import InvalidInput, MalformedBody, TooLarge
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
    """Return all parts in order; raises MalformedBody, TooLarge or Overloaded. The route bounds the whole body."""
    collector = _Collector()
    parser = _Parser(content_type, collector)
    await request.hold_body()
    async for chunk in request.chunks():
        parser.feed(chunk)
    parser.end()
    return collector.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFile:
    """The only file of a form; its bytes are read as they arrive."""

    filename: str
    media_type: str | None
    chunks: AsyncIterator[bytes]


async def open_file(request: Request, content_type: str) -> FormFile:
    """Return the file of a form that holds one file and nothing else, as soon as its headers have arrived.

    Raises MalformedBody, TooLarge, or InvalidInput for any other form. Iterating over the file's chunks raises the same
    errors when a later part of the form breaks these rules.
    """
    file = _OneFile()
    parser = _Parser(content_type, file)
    chunks = request.chunks()
    async for chunk in chunks:
        parser.feed(chunk)
        if file.opened is not None:
            break
    if file.opened is None:
        parser.end()
        raise InvalidInput.of("body", "must hold exactly one file, not 0")

    async def rest() -> AsyncIterator[bytes]:
        for data in file.take():
            yield data
        async for chunk in chunks:
            parser.feed(chunk)
            for data in file.take():
                yield data
        parser.end()

    opened = file.opened
    return FormFile(filename=opened.filename or "", media_type=opened.media_type, chunks=rest())


class _Parser:
    """Feeds a body to python-multipart, and turns its errors into MalformedBody."""

    def __init__(self, content_type: str, collector: _Collector) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedBody("the content type multipart/form-data needs a boundary")
        self._collector = collector
        with _malformed():
            self._parser = MultipartParser(boundary, collector.callbacks())

    def feed(self, chunk: bytes) -> None:
        with _malformed():
            self._parser.write(chunk)

    def end(self) -> None:
        """Note the end of the body; raise MalformedBody if the form is incomplete."""
        with _malformed():
            self._parser.finalize()
        if not self._collector.complete:
            raise MalformedBody("the body ends before its last boundary")


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except (FormParserError, UnicodeDecodeError, ValueError) as error:
        raise MalformedBody(f"the body is not valid multipart/form-data: {error}") from None


class _Collector:
    """Builds parts from the events of the parser."""

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
        self.parts.append(self._part(self._data[0] if len(self._data) == 1 else b"".join(self._data)))

    def _part(self, data: bytes) -> Part:
        """Return the part that its headers describe, with this data."""
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode()
        if not name:
            raise MalformedBody("each part needs a Content-Disposition with a name")
        filename = options.get(b"filename")
        stated, _ = parse_options_header(self._headers.get(b"content-type", b""))
        return Part(
            name=name,
            filename=filename.decode() if filename is not None else None,
            media_type=_media_type(stated.decode("latin-1").lower(), filename),
            data=data,
        )

    def _end_of_form(self) -> None:
        self.complete = True


class _OneFile(_Collector):
    """Yields the data of a form's only part as it arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: Part | None = None  # without its data

    def callbacks(self) -> MultipartCallbacks:
        return {**super().callbacks(), "on_headers_finished": self._open}

    def take(self) -> list[bytes]:
        """Return the data that has arrived since the last call."""
        taken, self._data = self._data, []
        return taken

    def _open(self) -> None:
        part = self._part(b"")
        if part.filename is None:
            raise InvalidInput.of(part.name[:100], "is not a file: a form holds one file and nothing else")
        if self.opened is not None:
            raise InvalidInput.of("body", "must hold exactly one file, not several")
        self.opened = part

    def _begin(self) -> None:
        self._headers = {}

    def _end(self) -> None:
        """Do nothing: a second part is refused when its headers have arrived."""


def _media_type(stated: str, filename: bytes | None) -> str | None:
    if filename is None or stated not in {"", _UNKNOWN}:
        return stated or None
    return mimetypes.guess_type(filename.decode())[0] or _UNKNOWN
