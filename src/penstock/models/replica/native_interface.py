"""The header ``include/penstock.h`` in Python: its types, its functions, and the conversion of values both ways."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import cffi  # type: ignore[import-untyped]  # it brings no types
import msgspec

from penstock.failures import CallFailed, Category
from penstock.finite import NOT_FINITE, not_finite_in
from penstock.models.replica import frames, libraries
from penstock.models.replica.file_bytes import INLINE_BYTES, FileBytes
from penstock.models.replica.runtime import Call, Output, Segment

_FUNCTIONS: Final = (
    "penstock_abi",
    "penstock_create",
    "penstock_predict",
    "penstock_free_result",
    "penstock_destroy",
)
_LEVELS: Final = ("debug", "info", "warning", "error")  # by their numbers in the header
_ANY_TYPE: Final = "application/octet-stream"
_C_NAMES: Final = re.compile(rb"(?:^|[\[,:])\s*-?(?:nan|inf)(?:inity)?\s*(?:$|[\],}])")
_json = msgspec.json.Decoder()  # decodes all values: a number may be out of range


class Running:
    """The state of one call that its callbacks change."""

    __slots__ = ("call", "error", "streamed")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.error: BaseException | None = None  # raised in a callback; raised again when the library has returned
        self.streamed = False


class Interface:
    """The header in Python: its types, and the conversion of values both ways."""

    def __init__(self, header: Path) -> None:
        _, begin, rest = header.read_text(encoding="utf-8").partition("/* [interface]")
        declarations, _, _ = rest.partition("/* [end of interface]")
        self.ffi = ffi = cffi.FFI()
        ffi.cdef(begin + declarations)
        self.numbers = ffi.dlopen(None)  # the header's constants
        self._functions = {
            "chunk": ffi.callback("int(void *, const char *, size_t, const penstock_part *, size_t)", self._chunk, 1),
            "progress": ffi.callback("void(void *, const char *, size_t)", self._progress),
            "log": ffi.callback("void(void *, int, const char *, size_t)", self._log),
            "cancelled": ffi.callback("int(void *)", self._cancelled, 1),
        }

    @staticmethod
    def running(call: Call) -> Running:
        """Return the callbacks of a call, which fill ``running``."""
        return Running(call)

    def opened(self, path: Path) -> Any:
        """Load a library and check that it has the interface; raises CallFailed."""
        library = libraries.opened(self.ffi, path, _FUNCTIONS, header="penstock.h")
        found, ours = library.penstock_abi(), self.numbers.PENSTOCK_ABI
        if found != ours:
            raise CallFailed(
                Category.UNAVAILABLE,
                f"{path.name} was compiled for version {found} of penstock.h, and this is version {ours}:"
                " compile it again",
            )
        return library

    # To the library

    def callbacks(self, context: Any) -> Any:
        return self.ffi.new("penstock_callbacks *", {"context": context, **self._functions})

    def request(self, call: Call, given: Output) -> tuple[Any, list[Any]]:
        """Return a penstock_request, and what must be kept alive as long as it is used."""
        ffi = self.ffi
        kept: list[Any] = []

        def text(value: bytes) -> tuple[Any, int]:
            kept.append(ffi.from_buffer("char[]", value))  # CPython puts a zero byte behind every bytes object
            return kept[-1], len(value)

        parts = ffi.new("penstock_part[]", len(given.segments))
        for part, segment in zip(parts, given.segments, strict=True):
            part.path = text(pointer(segment.path).encode())
            part.media_type = text(segment.media_type.encode())
            part.name = text((segment.name or "").encode())
            data = ffi.from_buffer(_mapped(segment.data) if isinstance(segment.data, FileBytes) else segment.data)
            kept.append(data)
            part.data, part.size = data, len(segment.data)
        request = ffi.new("penstock_request *")
        request.input = text(given.json)
        request.parts, request.count = parts, len(given.segments)
        request.request_id = text(call.request_id.encode())
        request.streams = call.streams
        kept.append(parts)
        return request, kept

    # From the library

    def check(self, status: int, error: Any) -> None:
        """Raise CallFailed unless predict returned PENSTOCK_OK."""
        numbers = self.numbers
        if status == numbers.PENSTOCK_OK:
            return
        message = self.message(error)
        if status == numbers.PENSTOCK_BAD_INPUT:
            field = self._short(error.field, error.field_size) or None
            raise CallFailed(
                Category.BAD_INPUT, message or "the library refuses the input and gives no reason", field=field
            )
        if status == numbers.PENSTOCK_CANCELLED:
            raise CallFailed(Category.INTERNAL, message or "the library reported a cancel, but the caller has not left")
        raise CallFailed(Category.INTERNAL, message or f"penstock_predict returned {status} and no reason")

    def message(self, error: Any) -> str:
        return self._short(error.message, error.message_size)

    def output(self, result: Any, call: Call) -> Output | None:
        """Return a copy of a penstock_result, of which large parts are files in the call's folder; None where it is
        empty. Raises CallFailed."""
        if not result.json.size and not result.count:
            return None
        return self._output(result.json.data, result.json.size, result.parts, result.count, call)

    def _output(self, data: Any, size: int, parts: Any, count: int, call: Call | None = None) -> Output:
        json = self._value(data, size)
        if not count:
            return Output(json)
        if not parts:
            raise CallFailed(Category.INTERNAL, f"the library's parts are null, but their count is {count}")
        try:
            value = msgspec.json.decode(json)
        except msgspec.MsgspecError as error:  # a number that is out of range
            raise CallFailed(Category.INTERNAL, f"the library gave JSON that cannot be read: {error}") from None
        return Output(json, [self._segment(parts[index], index, value, call) for index in range(count)])

    def _segment(self, part: Any, index: int, value: Any, call: Call | None) -> Segment:
        path = place(self._text(part.path, f"parts[{index}].path"), value, index)
        media_type = self._text(part.media_type, f"parts[{index}].media_type")
        name = self._text(part.name, f"parts[{index}].name")
        data: bytes | FileBytes
        if call is not None and part.data and part.size > INLINE_BYTES:
            data = self._file(part.data, part.size, call.folder() / str(index))
        else:
            data = self._bytes(part.data, part.size, f"parts[{index}].data")
        return Segment(data, media_type or _ANY_TYPE, path, name or None)

    def _file(self, data: Any, size: int, path: Path) -> FileBytes:
        path.write_bytes(self.ffi.buffer(self.ffi.cast("const char *", data), size))
        return FileBytes(str(path), size)

    def _value(self, data: Any, size: int) -> bytes:
        json = self._bytes(data, size, "json")
        try:
            if not json.isascii():
                json.decode()
            _json.decode(json)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = _not_finite_in(json) or f"what is not JSON: {error}"
            raise CallFailed(Category.INTERNAL, f"the library gave {said}") from None
        return json

    def _text(self, stated: Any, what: str) -> str:
        try:
            return self._bytes(stated.data, stated.size, what).decode()
        except UnicodeDecodeError:
            raise CallFailed(Category.INTERNAL, f"the library gave a {what} that is not UTF-8") from None

    def _bytes(self, data: Any, size: int, what: str) -> bytes:
        if not size:
            return b""
        if not data:
            raise CallFailed(Category.INTERNAL, f"the library gave a {what} that is null, but its size is {size}")
        if size > frames.LARGEST:
            raise CallFailed(
                Category.INTERNAL, f"the library gave a {what} of {size} bytes; {frames.LARGEST} are allowed"
            )
        return bytes(self.ffi.buffer(self.ffi.cast("const char *", data), size))

    def _short(self, array: Any, size: int) -> str:
        return bytes(self.ffi.buffer(array)[: min(size, len(array))]).decode("utf-8", "replace")

    # Callbacks: no exception may pass through the library, so it waits in Running

    def _chunk(self, context: Any, data: Any, size: int, parts: Any, count: int) -> int:
        running = self._running(context)
        if running.error is None:
            try:
                running.streamed = True
                running.call.chunk(self._output(data, size, parts, count))
            except BaseException as error:  # noqa: BLE001 - as above
                running.error = error
        return running.error is not None

    def _progress(self, context: Any, data: Any, size: int) -> None:
        running = self._running(context)
        try:
            running.call.progress(msgspec.Raw(self._value(data, size)))
        except BaseException as error:  # noqa: BLE001 - as above
            running.error = running.error or error

    def _log(self, context: Any, level: int, data: Any, size: int) -> None:
        running = self._running(context)
        try:
            text = self._bytes(data, size, "log line").decode("utf-8", "replace")
            running.call.log(text, _LEVELS[min(max(level, 0), len(_LEVELS) - 1)])
        except BaseException as error:  # noqa: BLE001 - as above
            running.error = running.error or error

    def _cancelled(self, context: Any) -> int:
        return self._running(context).call.cancelled

    def _running(self, context: Any) -> Running:
        return cast("Running", self.ffi.from_handle(context))


def _not_finite_in(json: bytes) -> str | None:
    """Return words for an infinity or NaN in what should be JSON, also as C's printf spells it; None without one."""
    return NOT_FINITE if _C_NAMES.search(json) is not None else not_finite_in(json)


def _mapped(file: FileBytes) -> mmap.mmap:
    with file.opened() as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def pointer(path: Sequence[str | int]) -> str:
    """Return a path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def place(stated: str, value: Any, index: int) -> tuple[str | int, ...]:
    """Return the path of a JSON pointer into ``value``, which must hold null there. Raises CallFailed."""
    path: list[str | int] = []
    if stated and not stated.startswith("/"):
        raise CallFailed(Category.INTERNAL, f"parts[{index}].path must be a JSON pointer, such as /image, not {stated}")
    try:
        for step in stated.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            path.append(int(name) if isinstance(value, list) and name.isdecimal() else name)
            value = value[path[-1]]
    except (KeyError, IndexError, TypeError):
        raise CallFailed(
            Category.INTERNAL, f"parts[{index}].path leads nowhere in the library's output: {stated}"
        ) from None
    if value is not None:
        raise CallFailed(
            Category.INTERNAL, f"the library's output must hold null where parts[{index}] stands: {stated!r}"
        )
    return tuple(path)
