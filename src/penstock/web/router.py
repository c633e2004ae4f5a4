"""Find the route of a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")
_NONE: dict[str, str] = {}


class _Node(Generic[T]):
    """A node of the tree of path segments."""

    __slots__ = ("any", "fixed", "found", "names")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[T]] = {}
        self.any: _Node[T] | None = None  # the child for a segment in braces
        self.found: T | None = None
        self.names: tuple[str, ...] = ()


class Router(Generic[T]):
    """Paths with segments in braces, which match any one segment that is not empty. Fixed segments take precedence."""

    def __init__(self, served: Mapping[str, T]) -> None:
        self._fixed = {path: found for path, found in served.items() if "{" not in path}
        self._root: _Node[T] = _Node()
        for path, found in served.items():
            self._add(path, found)

    def _add(self, path: str, found: T) -> None:
        node, names = self._root, []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                if node.any is None:
                    node.any = _Node()
                node = node.any
            else:
                node = node.fixed.setdefault(segment, _Node())
        node.found, node.names = found, tuple(names)

    def find(self, path: str) -> tuple[T | None, dict[str, str]]:
        """Return what is served at a percent-encoded path, and the texts of its segments in braces."""
        found = self._fixed.get(path)  # most requests go to a path without parameters, which needs no search
        if found is not None:
            return found, _NONE
        segments = path.split("/")
        if segments[0]:
            return None, _NONE
        values: list[str] = []
        node = self._search(self._root, segments, 1, values)
        if node is None:
            return None, _NONE
        return node.found, dict(zip(node.names, values, strict=True))

    def _search(self, node: _Node[T], segments: list[str], index: int, values: list[str]) -> _Node[T] | None:
        if index == len(segments):
            return node if node.found is not None else None
        text = segments[index]
        if "%" in text:
            text = unquote(text)
        child = node.fixed.get(text)
        if child is not None:
            found = self._search(child, segments, index + 1, values)
            if found is not None:
                return found
        if node.any is None or not text:
            return None
        values.append(text)
        found = self._search(node.any, segments, index + 1, values)
        if found is None:
            values.pop()
        return found
