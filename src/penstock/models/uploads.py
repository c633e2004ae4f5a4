"""Media that were uploaded before. An input refers to them as ``blob:ID`` where its schema has media."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from penstock.errors import InvalidInput, dotted

SCHEME: Final = "blob:"
MAX_UPLOADS: Final = 100  # that one input names
MAX_DEPTH: Final = 32  # levels of an input at which media may be

_CHOICES: Final = ("anyOf", "oneOf", "allOf")
Path = tuple[str | int, ...]


def upload_id(text: str) -> UUID | None:
    """Return the id in ``blob:ID``; None for any other text."""
    if not text.startswith(SCHEME):
        return None
    try:
        return UUID(text.removeprefix(SCHEME))
    except ValueError:
        return None


class MediaPlaces:
    """The places in an input that are media by its JSON Schema, at any depth.

    They are found through ``properties``, ``additionalProperties``, ``items``, ``prefixItems``, ``anyOf``, ``oneOf``,
    ``allOf`` and references within the schema. Values that cannot hold media are not visited.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._leads: dict[int, bool] = {}  # whether a part of the schema leads to media, by its identity

    def uploads_in(self, value: Any, *, prefix: str = "") -> Iterator[tuple[Path, UUID]]:
        """Yield the places where an input refers to uploads.

        Raises InvalidInput, which names places below ``prefix``, if they are too many or too deep.
        """
        found = 0
        seen: set[Path] = set()  # a place that several alternatives allow is one place
        for path, upload in self._visit(self._root, value, (), prefix):
            if path not in seen:
                seen.add(path)
                found += 1
                if found > MAX_UPLOADS:
                    raise InvalidInput.of(
                        _named(prefix, path), f"is the upload after the {MAX_UPLOADS} that one input may name"
                    )
                yield path, upload

    def _visit(self, schema: Any, value: Any, path: Path, prefix: str) -> Iterator[tuple[Path, UUID]]:
        for one in self._alternatives(schema):
            if isinstance(value, str):
                found = upload_id(value) if one.get("format") == "media" else None
                if found is not None and path:
                    yield path, found
            elif isinstance(value, dict):
                known = one.get("properties", {})
                for name, inner in value.items():
                    yield from self._inside(
                        known.get(name, one.get("additionalProperties")), inner, (*path, name), prefix
                    )
            elif isinstance(value, list):
                first = one.get("prefixItems", ())
                for index, inner in enumerate(value):
                    items = first[index] if index < len(first) else one.get("items")
                    yield from self._inside(items, inner, (*path, index), prefix)

    def _inside(self, schema: Any, value: Any, path: Path, prefix: str) -> Iterator[tuple[Path, UUID]]:
        if not isinstance(value, str | dict | list) or not self._leads_to_media(schema):
            return
        if len(path) > MAX_DEPTH:
            detail = f"is deeper than the {MAX_DEPTH} levels to which an input that names uploads may have media"
            raise InvalidInput.of(_named(prefix, path), detail)
        yield from self._visit(schema, value, path, prefix)

    def _alternatives(self, schema: Any) -> list[Mapping[str, Any]]:
        """Return a schema with the alternatives in it, references followed."""
        found: list[Mapping[str, Any]] = []
        waiting, entered = [schema], set[int]()
        while waiting:
            one = waiting.pop()
            if not isinstance(one, Mapping) or id(one) in entered:
                continue
            entered.add(id(one))
            found.append(one)
            waiting += [inner for word in _CHOICES for inner in one.get(word, ())]
            if "$ref" in one:
                waiting.append(self._referred(one["$ref"]))
        return found

    def _referred(self, reference: Any) -> Any:
        """Return the part of the schema at a reference such as ``#/$defs/Scene``; None if there is none."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _leads_to_media(self, schema: Any) -> bool:
        if not isinstance(schema, Mapping):
            return False
        known = self._leads.get(id(schema))
        if known is None:
            known = self._leads[id(schema)] = self._reaches_media(schema)
        return known

    def _reaches_media(self, schema: Mapping[str, Any]) -> bool:
        waiting, entered = [schema], set[int]()
        while waiting:
            for one in self._alternatives(waiting.pop()):
                if id(one) in entered:
                    continue
                entered.add(id(one))
                if one.get("format") == "media":
                    return True
                inner = [*_mappings(one.get("properties")), one.get("additionalProperties"), one.get("items")]
                waiting += [part for part in (*inner, *one.get("prefixItems", ())) if isinstance(part, Mapping)]
        return False


def _named(prefix: str, path: Path) -> str:
    return f"{prefix}.{dotted(path)}".lstrip(".")


def _mappings(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else ()


def is_media(schema: Any) -> bool:
    """Return whether a JSON Schema means media, perhaps among other choices."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("format") == "media" or any(is_media(one) for one in schema.get("anyOf", ()))


def takes_many(schema: Any) -> bool:
    """Return whether a JSON Schema means a list of media, perhaps among other choices."""
    if not isinstance(schema, Mapping) or is_media(schema):
        return False
    if schema.get("type") == "array" and is_media(schema.get("items")):
        return True
    return any(takes_many(one) for one in schema.get("anyOf", ()))
