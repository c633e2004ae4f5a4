"""The headers ``include/aiges/*.h`` in Python: their types, their functions, and the conversion of lists both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cffi  # type: ignore[import-untyped]  # it brings no types

from penstock.failures import CallFailed
from penstock.models.replica import frames, libraries
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import Item

HEADERS: Final = Path(__file__).parents[3] / "include" / "aiges"
FUNCTIONS: Final = (
    "wrapperSetCtrl",
    "wrapperInit",
    "wrapperFini",
    "wrapperError",
    "wrapperVersion",
    "wrapperLoadRes",
    "wrapperUnloadRes",
    "wrapperCreate",
    "wrapperWrite",
    "wrapperRead",
    "wrapperDestroy",
    "wrapperExec",
    "wrapperExecFree",
    "wrapperExecAsync",
    "wrapperDebugInfo",
)

_MAX_NODES: Final = 10_000  # of a list that a library returns; more are a list that leads back into itself
_MAX_NAME: Final = 1024  # bytes of a key
_MAX_TEXT: Final = 64 * 2**10  # bytes of the value of an attribute, and of a message


class Interface:
    """The headers in Python: their types, and the conversion of lists both ways."""

    def __init__(self) -> None:
        self.ffi = ffi = cffi.FFI()
        for name in ("type.h", "wrapper.h"):
            _, begin, rest = (HEADERS / name).read_text(encoding="utf-8").partition("/* [interface]")
            declarations, _, _ = rest.partition("/* [end of interface]")
            ffi.cdef((begin + declarations).replace("WrapperAPI ", ""))
        self._memory = ffi.new_allocator(should_clear_after_alloc=False)

    def opened(self, path: Path) -> Any:
        """Load a library and check that it has every function. Raises CallFailed (``unavailable``)."""
        return libraries.opened(self.ffi, path, FUNCTIONS, header="aiges/wrapper.h")

    # To the library. Each method returns a pointer, and what must be kept alive as long as it is used.

    def pairs(self, values: Mapping[str, str]) -> tuple[Any, list[Any]]:
        """Return a ParamList, or NULL for no values."""
        if not values:
            return self.ffi.NULL, []
        nodes = self.ffi.new("struct ParamList[]", len(values))
        kept: list[Any] = [nodes]
        for index, (key, value) in enumerate(values.items()):
            node, text = nodes[index], value.encode()
            node.key, node.value = self._text(key.encode(), kept), self._text(text, kept)
            node.vlen = len(text)
            node.next = nodes + index + 1 if index + 1 < len(values) else self.ffi.NULL
        return nodes, kept

    def data(self, items: Sequence[Item]) -> tuple[Any, list[Any]]:
        """Return a DataList, or NULL for no items."""
        if not items:
            return self.ffi.NULL, []
        nodes = self.ffi.new("struct DataList[]", len(items))
        kept: list[Any] = [nodes]
        for index, item in enumerate(items):
            node = nodes[index]
            node.key = self._text(item.key.encode(), kept)
            node.data, node.len = self._text(item.data, kept), len(item.data)
            node.type, node.status = item.kind, item.status
            node.desc, attributes = self.pairs(item.attributes)
            kept += attributes
            node.next = nodes + index + 1 if index + 1 < len(items) else self.ffi.NULL
        return nodes, kept

    def _text(self, value: bytes | memoryview, kept: list[Any]) -> Any:
        """Return a copy that the library may change, followed by a zero byte."""
        size = len(value)
        copy = self._memory("char[]", size + 1)
        self.ffi.memmove(copy, value, size)
        copy[size] = b"\0"
        kept.append(copy)
        return copy

    # From the library. Each method copies, and raises CallFailed for what cannot be right.

    def items(self, first: Any) -> list[Item]:
        """Return a copy of a DataList."""
        found: list[Item] = []
        total = 0
        for node in self._nodes(first, "results"):
            key = self.string(node.key, _MAX_NAME)
            size = node.len
            total += size
            if size and not node.data:
                raise broken(f"its result {key!r} is NULL, but its length is {size}")
            if total > frames.LARGEST:
                raise broken(f"its results have more than {frames.LARGEST} bytes")
            if node.type >= len(kinds.NAMES) or node.status > kinds.ONCE:
                raise broken(f"its result {key!r} has the type {node.type} and the status {node.status}")
            data = bytes(self.ffi.buffer(self.ffi.cast("char *", node.data), size)) if size else b""
            found.append(Item(key, data, node.type, node.status, self.attributes(node.desc)))
        return found

    def attributes(self, first: Any) -> dict[str, str]:
        return {
            self.string(node.key, _MAX_NAME): self.string(node.value, min(node.vlen or _MAX_TEXT, _MAX_TEXT))
            for node in self._nodes(first, "attributes")
        }

    def _nodes(self, node: Any, what: str) -> Iterator[Any]:
        for _ in range(_MAX_NODES):
            if not node:
                return
            yield node
            node = node.next
        raise broken(f"its list of {what} has more than {_MAX_NODES} elements, or has no end")

    def string(self, pointer: Any, limit: int = _MAX_TEXT) -> str:
        """Return a text that a zero byte ends, of at most ``limit`` bytes; an empty one for NULL."""
        return bytes(self.ffi.string(pointer, limit)).decode("utf-8", "replace") if pointer else ""


def broken(message: str) -> CallFailed:
    """Return the failure of a call whose library returned what cannot be right."""
    return codes.failed(codes.INVALID_OUTPUT, f"the engine broke its interface: {message}")
