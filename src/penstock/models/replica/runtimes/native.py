"""The runtime of shared libraries with the C interface of ``include/penstock.h``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from penstock.failures import CallFailed, Category
from penstock.models.replica.data_urls import Lifter, Unreadable
from penstock.models.replica.runtime import BlockingRuntime, Call, Cancelled, Output, Spec, unknown_options

if TYPE_CHECKING:
    from penstock.models.replica.native_interface import Interface

HEADER: Final = Path(__file__).parents[3] / "include" / "penstock.h"

_OPTIONS: Final = ("library", "config")


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
        from penstock.models.replica.native_interface import Interface  # noqa: PLC0415  (a host needs no cffi)

        self._interface = interface = Interface(HEADER)
        library = interface.opened(self.spec.folder / self.spec.options["library"])
        ffi = interface.ffi
        try:
            config = msgspec.json.encode(self.spec.options.get("config", {}))
        except TypeError as error:
            raise CallFailed(Category.UNAVAILABLE, f"the table config cannot be written as JSON: {error}") from None
        model, failure = ffi.new("void **"), ffi.new("penstock_error *")
        status = library.penstock_create(config, len(config), model, failure)
        if status != interface.numbers.PENSTOCK_OK:
            reason = interface.message(failure) or f"penstock_create returned {status} and no reason"
            raise CallFailed(Category.UNAVAILABLE, reason)
        self._library = library
        self._model = model[0]

    def unload(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.penstock_destroy(self._model)

    def predict(self, call: Call) -> Output | None:
        if self._library is None:
            raise CallFailed(Category.UNAVAILABLE, "the library is not loaded")
        ffi = self._interface.ffi
        running = self._interface.running(call)
        handle = ffi.new_handle(running)
        request, _kept = self._interface.request(call, self._input(call))  # it points into the objects that are kept
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
            output = self._interface.output(result, call)
        finally:
            self._library.penstock_free_result(self._model, result)
        if output is None and not (running.streamed or self.spec.schema.streams):
            raise CallFailed(Category.INTERNAL, "the library gave neither an output nor chunks")
        if output is not None and (running.streamed or self.spec.schema.streams):
            call.chunk(output)
            return None
        return output

    def _input(self, call: Call) -> Output:
        """Return the call's input with all of its media beside the JSON, however they were sent."""
        try:
            lifted = self._lifter.lift(call.input)
        except Unreadable as error:
            raise CallFailed(Category.BAD_INPUT, error.message, field=error.field) from None
        return Output(lifted.json, [*call.segments, *lifted.segments])
