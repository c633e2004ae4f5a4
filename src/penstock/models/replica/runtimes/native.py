"""The runtime of shared libraries with the C interface of ``include/penstock.h``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import cffi  # type: ignore[import-untyped]  # it brings no types
import msgspec

from penstock.models.replica import frames
from penstock.models.replica.data_urls import Lifter, Unreadable
from penstock.models.replica.finite import NOT_FINITE, names_no_number
from penstock.models.replica.runtime import BlockingRuntime, Call, Cancelled, Output, Segment, Spec, unknown_options
from penstock.outbound.failure import CallFailed

HEADER: Final = Path(__file__).parents[3] / "include" / "penstock.h"

_OPTIONS: Final = ("library", "config")
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
_json = msgspec.json.Decoder(msgspec.Raw)


class NativeRuntime(BlockingRuntime):
    """``native``: a shared library, loaded into the replica.

    The manifest's table::

        [native]
        library = "./libedges.so"       # in the manifest's folder
        config = { threshold = 40 }     # optional: what penstock_create gets, as JSON

    ``include/penstock.h`` states the interface and who owns which memory; ``docs/native-models.md`` is its guide. The
    interpreter's lock is free while the library works.
    """

    name: ClassVar[str] = "native"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._lifter = Lifter(spec.schema.input)
        self._interface: Interface
        self._library: Any = None
        self._model: Any = None

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        stated = options.get("library")
        if not isinstance(stated, str) or not stated or "\0" in stated:
            problems.append(("library", 'is required: the path of a shared library, such as "./libedges.so"'))
        elif not (folder / stated).is_file():
            problems.append(("library", f"must exist in the manifest's folder: {stated} (has it been compiled?)"))
        if not isinstance(options.get("config", {}), Mapping):
            problems.append(("config", "must be a table; the library gets it as JSON"))
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems

    def load(self) -> None:
        self._interface = interface = Interface()
        library = interface.opened(self.spec.folder / self.spec.options["library"])
        ffi = interface.ffi
        try:
            config = msgspec.json.encode(self.spec.options.get("config", {}))
        except TypeError as error:
            raise CallFailed("unavailable", f"the table config cannot be written as JSON: {error}") from None
        model, failure = ffi.new("void **"), ffi.new("penstock_error *")
        status = library.penstock_create(config, len(config), model, failure)
        if status != interface.numbers.PENSTOCK_OK:
            reason = interface.message(failure) or f"penstock_create returned {status} and no reason"
            raise CallFailed("unavailable", reason)
        self._library = library
        self._model = model[0]

    def unload(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.penstock_destroy(self._model)

    def predict(self, call: Call) -> Output | None:
        if self._library is None:
            raise CallFailed("unavailable", "the library is not loaded")
        ffi = self._interface.ffi
        running = Running(call)
        handle = ffi.new_handle(running)
        request, _kept = self._interface.request(call, self._input(call))  # it points into what is kept
        result, error = ffi.new("penstock_result *"), ffi.new("penstock_error *")
        try:
            status = self._library.penstock_predict(
                self._model, request, self._interface.callbacks(handle), result, error
            )
            if call.cancelled:
                raise Cancelled
            if running.error is not None:
                raise running.error
            self._interface.check(status, error)
            answer = self._interface.answer(result)
        finally:
            self._library.penstock_free_result(self._model, result)
        if answer is None and not (running.streamed or self.spec.schema.streams):
            raise CallFailed("failed", "the library gave neither an answer nor chunks")
        if answer is not None and (running.streamed or self.spec.schema.streams):
            call.chunk(answer)
            return None
        return answer

    def _input(self, call: Call) -> Output:
        """The call's input with all of its media beside the JSON, however they came."""
        try:
            lifted = self._lifter.lift(call.input)
        except Unreadable as error:
            raise CallFailed("bad_input", error.message, field=error.field) from None
        return Output(lifted.json, [*call.segments, *lifted.segments])


class Running:
    """What a call's callbacks leave behind."""

    __slots__ = ("call", "error", "streamed")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.error: BaseException | None = None  # raised in a callback; raised again when the library has returned
        self.streamed = False


class Interface:
    """The header in Python: its types, and values on their way in and out."""

    def __init__(self) -> None:
        _, begin, rest = HEADER.read_text(encoding="utf-8").partition("/* [interface]")
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

    def opened(self, path: Path) -> Any:
        """A library that is loaded and has the interface; raises CallFailed."""
        ffi = self.ffi
        try:
            library = ffi.dlopen(str(path.absolute()), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
        except OSError as error:
            raise CallFailed("unavailable", f"{path.name} cannot be loaded: {error}") from None
        missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
        if missing:
            raise CallFailed("unavailable", f"{path.name} has no function {', '.join(missing)}: see penstock.h")
        found, ours = library.penstock_abi(), self.numbers.PENSTOCK_ABI
        if found != ours:
            raise CallFailed(
                "unavailable",
                f"{path.name} was compiled for version {found} of penstock.h, and this is version {ours}:"
                " compile it again",
            )
        return library

    # To the library

    def callbacks(self, context: Any) -> Any:
        return self.ffi.new("penstock_callbacks *", {"context": context, **self._functions})

    def request(self, call: Call, given: Output) -> tuple[Any, list[Any]]:
        """A penstock_request, and what must be kept as long as it is used."""
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
            data = ffi.from_buffer(segment.data)
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
            raise CallFailed("bad_input", message or "the library refuses the input and gives no reason", field=field)
        if status == numbers.PENSTOCK_CANCELLED:
            raise CallFailed("failed", message or "the library gave up as cancelled, though the caller is there")
        raise CallFailed("failed", message or f"penstock_predict returned {status} and no reason")

    def message(self, error: Any) -> str:
        return self._short(error.message, error.message_size)

    def answer(self, result: Any) -> Output | None:
        """A penstock_result as our own copy; None where it is empty. Raises CallFailed."""
        if not result.json.size and not result.count:
            return None
        return self._output(result.json.data, result.json.size, result.parts, result.count)

    def _output(self, data: Any, size: int, parts: Any, count: int) -> Output:
        json = self._value(data, size)
        if not count:
            return Output(json)
        if not parts:
            raise CallFailed("failed", f"the library's parts are null, but their count is {count}")
        try:
            value = msgspec.json.decode(json)
        except msgspec.MsgspecError as error:  # a number that is out of range
            raise CallFailed("failed", f"the library gave JSON that cannot be read: {error}") from None
        return Output(json, [self._segment(parts[index], index, value) for index in range(count)])

    def _segment(self, part: Any, index: int, value: Any) -> Segment:
        path = place(self._text(part.path, f"parts[{index}].path"), value, index)
        media_type = self._text(part.media_type, f"parts[{index}].media_type")
        name = self._text(part.name, f"parts[{index}].name")
        data = self._bytes(part.data, part.size, f"parts[{index}].data")
        return Segment(data, media_type or _ANY_TYPE, path, name or None)

    def _value(self, data: Any, size: int) -> bytes:
        json = self._bytes(data, size, "json")
        try:
            if not json.isascii():
                json.decode()
            _json.decode(json)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = NOT_FINITE if _is_not_finite(json) else f"what is not JSON: {error}"
            raise CallFailed("failed", f"the library gave {said}") from None
        return json

    def _text(self, stated: Any, what: str) -> str:
        try:
            return self._bytes(stated.data, stated.size, what).decode()
        except UnicodeDecodeError:
            raise CallFailed("failed", f"the library gave a {what} that is not UTF-8") from None

    def _bytes(self, data: Any, size: int, what: str) -> bytes:
        if not size:
            return b""
        if not data:
            raise CallFailed("failed", f"the library gave a {what} that is null, but its size is {size}")
        if size > frames.LARGEST:
            raise CallFailed("failed", f"the library gave a {what} of {size} bytes; {frames.LARGEST} are allowed")
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


def _is_not_finite(json: bytes) -> bool:
    """Return whether JSON holds what C's printf makes of NaN and infinities, or what other languages do."""
    return _C_NAMES.search(json) is not None or names_no_number(json)


def pointer(path: Sequence[str | int]) -> str:
    """A path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def place(stated: str, value: Any, index: int) -> tuple[str | int, ...]:
    """The path of a JSON pointer into ``value``, where there must be null. Raises CallFailed for part ``index``."""
    path: list[str | int] = []
    if stated and not stated.startswith("/"):
        raise CallFailed("failed", f"parts[{index}].path must be a JSON pointer, such as /image, not {stated}")
    try:
        for step in stated.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            path.append(int(name) if isinstance(value, list) and name.isdecimal() else name)
            value = value[path[-1]]
    except (KeyError, IndexError, TypeError):
        raise CallFailed("failed", f"parts[{index}].path leads nowhere in the library's answer: {stated}") from None
    if value is not None:
        raise CallFailed("failed", f"the library's answer must hold null where parts[{index}] stands: {stated!r}")
    return tuple(path)
