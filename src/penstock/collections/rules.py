"""What items, searches and deletions may hold, beyond their types. Pure functions, which raise InvalidInput."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from penstock.collections.collection import Collection, Deletion, Item
from penstock.errors import FieldProblem, InvalidInput

MAX_ATTRIBUTES: Final = 16 * 1024  # bytes of JSON
_LARGEST: Final = 1e15  # squares of such numbers, 4096 of them, can be added as 32-bit floats
_MAX_PROBLEMS: Final = 20


def vector_of(collection: Collection, vector: Sequence[float], *, field: str) -> list[float]:
    """Return the vector as the collection stores it. Raises InvalidInput."""
    if len(vector) != collection.dimension:
        detail = f"has {len(vector)} numbers; the collection {collection.name} has {collection.dimension} dimensions"
        raise InvalidInput.of(field, detail)
    if min(vector) < -_LARGEST or max(vector) > _LARGEST:
        raise InvalidInput.of(field, f"has numbers out of range; allowed are those from {-_LARGEST:g} to {_LARGEST:g}")
    if collection.metric != "cosine":
        return list(vector)
    length = math.hypot(*vector)
    if not length:
        raise InvalidInput.of(field, "has no direction: with the metric cosine, its length must be more than 0")
    return [number / length for number in vector]


def checked_attributes(value: dict[str, Any], *, field: str) -> bytes:
    """Return attributes as JSON that the database can hold. Raises InvalidInput."""
    encoded = msgspec.json.encode(value)
    if len(encoded) > MAX_ATTRIBUTES:
        raise InvalidInput.of(field, f"has {len(encoded)} bytes as JSON; at most {MAX_ATTRIBUTES} are allowed")
    if b"\\u0000" in encoded and any("\x00" in text for text in _texts(value)):
        raise InvalidInput.of(field, "must not contain the character U+0000")
    return encoded


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one


def check_deletion(deletion: Deletion) -> None:
    """Raise InvalidInput unless it selects items by exactly one thing."""
    stated = [name for name in ("keys", "group", "attributes") if getattr(deletion, name) is not None]
    if len(stated) != 1:
        raise InvalidInput.of("body", "must have exactly one of keys, group and attributes")


def check_keys(items: Sequence[Item]) -> None:
    """Raise InvalidInput for keys that occur twice."""
    seen: set[str] = set()
    problems = []
    for index, item in enumerate(items):
        if item.key in seen:
            problems.append(FieldProblem(field=f"items[{index}].key", detail="occurs twice in this request"))
        seen.add(item.key)
    if problems:
        raise InvalidInput(problems[:_MAX_PROBLEMS])
