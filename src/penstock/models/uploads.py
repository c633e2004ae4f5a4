"""Media that were uploaded before. An input refers to them as ``blob:ID`` where its schema has media."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

SCHEME: Final = "blob:"
Path = tuple[str | int, ...]


def upload_id(text: str) -> UUID | None:
    """Return the id in ``blob:ID``; None for any other text."""
    if not text.startswith(SCHEME):
        return None
    try:
        return UUID(text.removeprefix(SCHEME))
    except ValueError:
        return None


def uploads_in(value: Any, properties: Mapping[str, Any]) -> Iterator[tuple[Path, UUID]]:
    """Yield the places where an input refers to uploads: fields that are media, and lists of media."""
    if not isinstance(value, dict):
        return
    for name, schema in properties.items():
        given = value.get(name)
        if isinstance(given, str) and is_media(schema):
            found = upload_id(given)
            if found is not None:
                yield (name,), found
        elif isinstance(given, list) and takes_many(schema):
            for index, one in enumerate(given):
                found = upload_id(one) if isinstance(one, str) else None
                if found is not None:
                    yield (name, index), found


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
