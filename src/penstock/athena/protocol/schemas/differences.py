"""Differences between two documents of a service, and which of them break clients.

A change of the **input** breaks clients where a request that was allowed may be refused. A change of the **output**
breaks them where a result may lack what it had, or be what it could not be before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from penstock.athena.protocol.schemas.document import Document, properties_of

Direction = Literal["input", "output"]

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LIMITS: Final = {
    **dict.fromkeys(_LOWER, 1),
    **dict.fromkeys(_UPPER, -1),
}  # the direction in which one becomes stricter
_EXACT: Final = ("pattern", "format", "const", "constVal", "multipleOf", "additionalProperties", "replaceKey")
_HARMLESS: Final = ("default", "defaultVal", "title", "description", "examples")
_MAX_DEPTH: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One change."""

    path: str
    change: str
    breaking: bool


def differences(before: Document, after: Document) -> list[Difference]:
    """Return the changes from one document to another, in the order of their paths."""
    found = [
        *_of_meta(before, after),
        *_compared(before.given, after.given, "schemainput", "input", 0),
        *_compared(before.returned, after.returned, "schemaoutput", "output", 0),
    ]
    return sorted(found, key=lambda one: one.path)


def _of_meta(before: Document, after: Document) -> Iterator[Difference]:
    if before.service_id != after.service_id:
        yield _changed("meta.serviceId", before.service_id, after.service_id, breaking=True)
    for route in before.routes:
        if route not in after.routes:
            yield Difference(path="meta.route", change=f"{route} was removed", breaking=True)
    for route in after.routes:
        if route not in before.routes:
            yield Difference(path="meta.route", change=f"{route} was added", breaking=False)
    for direction, old, new in (
        ("input", before.input_types, after.input_types),
        ("accept", before.output_types, after.output_types),
    ):
        for name, kind in old.items():
            path = f"meta.{after.service_id}.{direction}.{name}"
            if name not in new:
                yield Difference(path=path, change="was removed", breaking=True)
            elif new[name] is not kind:
                yield _changed(f"{path}.dataType", kind.value, new[name].value, breaking=True)
        for name in new.keys() - old.keys():
            path = f"meta.{after.service_id}.{direction}.{name}"
            yield Difference(path=path, change="was added", breaking=False)
    for name in ("version", "hosts", "codeMap", "session_timeout", "build_header", "subRoute"):
        if before.meta.get(name) != after.meta.get(name):
            yield _changed(f"meta.{name}", before.meta.get(name), after.meta.get(name), breaking=False)


def _compared(old: Any, new: Any, path: str, direction: Direction, depth: int) -> Iterator[Difference]:
    """Yield the differences between two schemas of the same value."""
    if depth > _MAX_DEPTH or not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if old != new:
            yield _changed(path, old, new, breaking=True)
        return
    yield from _of_types(old, new, path, direction)
    yield from _of_values(old, new, path, direction)
    yield from _of_limits(old, new, path, direction)
    yield from _of_members(old, new, path, direction, depth)
    if "items" in old or "items" in new:
        yield from _compared(old.get("items", {}), new.get("items", {}), f"{path}.items", direction, depth + 1)


def _of_types(old: Mapping[str, Any], new: Mapping[str, Any], path: str, direction: Direction) -> Iterator[Difference]:
    before, after = _types(old), _types(new)
    if before != after:
        narrower, wider = _fits(after, before), _fits(before, after)
        breaking = not wider if direction == "input" else not narrower
        yield _changed(f"{path}.type", old.get("type"), new.get("type"), breaking=breaking)


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    stated = schema.get("type", ())
    kinds = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return frozenset(kind for kind in kinds if isinstance(kind, str))


def _fits(inner: frozenset[str], outer: frozenset[str]) -> bool:
    """Return whether each value of the inner types is one of the outer types; no types mean any."""
    if not outer:
        return True
    allowed = outer | {"integer"} if "number" in outer else outer
    return bool(inner) and inner <= allowed


def _of_values(old: Mapping[str, Any], new: Mapping[str, Any], path: str, direction: Direction) -> Iterator[Difference]:
    before, after = old.get("enum"), new.get("enum")
    if before == after:
        return
    if not isinstance(before, list) or not isinstance(after, list):
        stricter = isinstance(after, list)
        yield _changed(f"{path}.enum", before, after, breaking=stricter == (direction == "input"))
        return
    for value in before:
        if value not in after:
            change = f"{_shown(value)} was removed"
            yield Difference(path=f"{path}.enum", change=change, breaking=direction == "input")
    for value in after:
        if value not in before:
            change = f"{_shown(value)} was added"
            yield Difference(path=f"{path}.enum", change=change, breaking=direction == "output")


def _of_limits(old: Mapping[str, Any], new: Mapping[str, Any], path: str, direction: Direction) -> Iterator[Difference]:
    for name, sign in _LIMITS.items():
        before, after = old.get(name), new.get(name)
        if before != after:
            stricter = before is None or (_is_number(before) and _is_number(after) and (after - before) * sign > 0)
            breaking = stricter if direction == "input" else not stricter
            yield _changed(f"{path}.{name}", before, after, breaking=breaking)
    for name in _EXACT:
        if old.get(name) != new.get(name):
            loosened = name not in new and direction == "input"
            yield _changed(f"{path}.{name}", old.get(name), new.get(name), breaking=not loosened)
    for name in _HARMLESS:
        if old.get(name) != new.get(name):
            yield _changed(f"{path}.{name}", old.get(name), new.get(name), breaking=False)


def _of_members(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str, direction: Direction, depth: int
) -> Iterator[Difference]:
    before, after = properties_of(old), properties_of(new)
    needed_before, needed_after = _required(old), _required(new)
    for name in [*before, *(one for one in after if one not in before)]:
        here = f"{path}.properties.{name}"
        if name not in after:
            yield Difference(path=here, change="was removed", breaking=True)
        elif name not in before:
            breaking = direction == "input" and name in needed_after
            yield Difference(
                path=here, change="was added, and is required" if breaking else "was added", breaking=breaking
            )
        else:
            yield from _compared(before[name], after[name], here, direction, depth + 1)
    for name in needed_after - needed_before:
        if name in before or name not in after:
            yield Difference(path=f"{path}.required", change=f"{name} was added", breaking=direction == "input")
    for name in needed_before - needed_after:
        yield Difference(path=f"{path}.required", change=f"{name} was removed", breaking=direction == "output")


def _required(schema: Mapping[str, Any]) -> frozenset[str]:
    stated = schema.get("required", [])
    return frozenset(one for one in stated if isinstance(one, str)) if isinstance(stated, list) else frozenset()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _changed(path: str, before: Any, after: Any, *, breaking: bool) -> Difference:
    change = f"was {_shown(before)}, is {_shown(after)}"
    return Difference(path=path, change=change, breaking=breaking)


def _shown(value: Any) -> str:
    if value is None:
        return "not stated"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:80] + "…"
