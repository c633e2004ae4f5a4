"""The resources of an engine in C: names, which callers state, and the numbers by which the engine knows them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.library import Library

LOAD: Final = "AILoad"  # values of header.op, as the original's RPC names them
UNLOAD: Final = "AIUnLoad"

_MAX_RESOURCES: Final = 10_000
_DIVIDER: Final = ";"  # between the names in header.res_id
_SHOWN: Final = 10  # names in a message


class NativeResources:
    """The resources that are loaded. Methods block; any thread may call them."""

    def __init__(self, library: Library, *, loadable: bool) -> None:
        self._library = library
        self._loadable = loadable  # by calls
        self._numbers = itertools.count(1)
        self._loaded: dict[str, int] = {}
        self._lock = threading.Lock()

    def load_files(self, files: Mapping[str, str], folder: Path) -> None:
        """Load the files of a manifest. Raises CallFailed."""
        for name, path in files.items():
            self._load(name, Item(name, (folder / path).read_bytes(), kinds.OTHER, kinds.END))

    def unload_all(self) -> None:
        """Unload what is loaded. Raises CallFailed."""
        while self._loaded:
            _, number = self._loaded.popitem()
            self._library.unload_resource(number)

    def wanted(self, given: EngineCall) -> list[int]:
        """Return the numbers of the resources that a caller names. Raises CallFailed (``bad_input``)."""
        names = [name for name in given.header.get("res_id", "").split(_DIVIDER) if name]
        return [self._number(name) for name in names]

    @staticmethod
    def is_operation(given: EngineCall) -> bool:
        """Return whether a call is to load or unload a resource."""
        return given.header.get("op", "") in (LOAD, UNLOAD)

    def operate(self, given: EngineCall) -> None:
        """Load or unload the resource of such a call. Raises CallFailed."""
        operation, name = given.header["op"], given.header.get("res_id", "")
        if not self._loadable:
            raise _bad("op", "this engine loads no resources by calls: its manifest must state load_resources = true")
        if not name or _DIVIDER in name:
            raise _bad("res_id", f"must name one resource for {operation}")
        if operation == UNLOAD:
            self._unload(name)
        elif len(given.items) != 1:
            raise CallFailed(Category.BAD_INPUT, f"must hold one data object for {operation}", field="payload")
        else:
            (item,) = given.items
            self._load(name, Item(item.key, item.data, kinds.OTHER, kinds.END, item.attributes))

    def _number(self, name: str) -> int:
        number = self._loaded.get(name)
        if number is None:
            there = ", ".join(sorted(self._loaded)[:_SHOWN]) or "none"
            raise _bad("res_id", f"names a resource that is not loaded; there are: {there}")
        return number

    def _load(self, name: str, item: Item) -> None:
        with self._lock:
            if name in self._loaded:
                self._library.unload_resource(self._loaded.pop(name))
            if len(self._loaded) >= _MAX_RESOURCES:
                raise _bad("op", f"{_MAX_RESOURCES} resources are loaded already")
            number = next(self._numbers)
            self._library.load_resource(number, item)
            self._loaded[name] = number

    def _unload(self, name: str) -> None:
        with self._lock:
            number = self._number(name)
            del self._loaded[name]
            self._library.unload_resource(number)


def _bad(name: str, detail: str) -> CallFailed:
    return codes.failed(codes.LOAD, detail, category=Category.BAD_INPUT, field=f"header.{name}")
