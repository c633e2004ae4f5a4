"""The resources of an engine in C: names, which callers state, and the numbers by which the engine knows them."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import kinds, operations
from penstock.models.replica.aiges.calls import EngineCall, Item
from penstock.models.replica.aiges.library import Library

_log = logging.getLogger("penstock.model")

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
        self._users: Counter[int] = Counter()  # calls that use a number
        self._dropped: set[int] = set()  # numbers to unload when their last user ends
        self._lock = threading.Lock()  # of the state; held for moments only, since the event loop takes it
        self._loading = threading.Lock()  # so that one resource is loaded at a time; taken before the other lock

    def load_files(self, files: Mapping[str, str], folder: Path) -> None:
        """Load the files of a manifest. Raises CallFailed."""
        for name, path in files.items():
            self._load(name, Item(name, (folder / path).read_bytes(), kinds.OTHER, kinds.END))

    def unload_all(self) -> None:
        """Unload what is loaded. Raises CallFailed."""
        while self._loaded:
            _, number = self._loaded.popitem()
            self._library.unload_resource(number)

    def take(self, given: EngineCall) -> list[int]:
        """Return the numbers of the resources that a caller names; they stay loaded until ``release``. Doesn't block.
        Raises CallFailed (``bad_input``)."""
        names = [name for name in given.header.get("res_id", "").split(_DIVIDER) if name]
        with self._lock:
            numbers = [self._number(name) for name in names]
            self._users.update(numbers)
        return numbers

    def release(self, numbers: Sequence[int]) -> None:
        """Give back what ``take`` returned. Unloads what has been replaced or unloaded meanwhile and has no other
        user."""
        with self._lock:
            self._users.subtract(numbers)
            unused = [number for number in set(numbers) if not self._users[number]]
            for number in unused:
                del self._users[number]
            dropped = self._dropped.intersection(unused)
            self._dropped -= dropped
        for number in dropped:
            self._unload_quietly(number)

    @staticmethod
    def is_operation(given: EngineCall) -> bool:
        """Return whether a call is to load or unload a resource."""
        return operations.is_operation(given.header)

    def operate(self, given: EngineCall) -> None:
        """Load or unload the resource of such a call. Raises CallFailed."""
        operation, name = given.header["op"], given.header.get("res_id", "")
        if not self._loadable:
            raise operations.bad(
                "op", "this engine loads no resources by calls: its manifest must state load_resources = true"
            )
        if not name or _DIVIDER in name:
            raise operations.bad("res_id", f"must name one resource for {operation}")
        if operation == operations.UNLOAD:
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
            raise operations.bad("res_id", f"names a resource that is not loaded; there are: {there}")
        return number

    def _load(self, name: str, item: Item) -> None:
        """Load a resource. One of that name is replaced once the new one is loaded."""
        with self._loading:
            if name not in self._loaded and len(self._loaded) >= _MAX_RESOURCES:
                raise operations.bad("op", f"{_MAX_RESOURCES} resources are loaded already")
            number = next(self._numbers)
            self._library.load_resource(number, item)
            with self._lock:
                old = self._loaded.get(name)
                self._loaded[name] = number
                unused = old is not None and self._drop(old)
            if old is not None and unused:
                self._unload_quietly(old)

    def _unload(self, name: str) -> None:
        with self._loading:
            with self._lock:
                number = self._number(name)
                del self._loaded[name]
                unused = self._drop(number)
            if unused:
                self._library.unload_resource(number)

    def _drop(self, number: int) -> bool:
        """Return whether a resource that has lost its name can be unloaded now; else its last user unloads it. The
        lock is held."""
        if self._users[number]:
            self._dropped.add(number)
            return False
        return True

    def _unload_quietly(self, number: int) -> None:
        """Unload a resource for which no call waits: a failure is logged."""
        try:
            self._library.unload_resource(number)
        except CallFailed as failure:
            _log.warning("wrapperUnloadRes has failed: %s", failure.message)
