"""Media that were uploaded before: an input names them as ``blob:`` with an id, where its schema wants media."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

SCHEME: Final = "blob:"
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file as it was uploaded."""

    data: bytes
    media_type: str
    name: str | None


Load = Callable[[UUID], Awaitable[Upload]]
"""Reads an upload; raises NotFound, or TooLarge for one that no call may bring along."""


def upload_id(text: str) -> UUID | None:
    """The id that ``blob:ID`` names; None for any other text."""
    if not text.startswith(SCHEME):
        return None
    try:
        return UUID(text.removeprefix(SCHEME))
    except ValueError:
        return None


def uploads_in(value: Any, properties: Mapping[str, Any]) -> Iterator[tuple[Path, UUID]]:
    """Where an input names uploads: in fields that are media, and in lists of media."""
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
    """Whether a JSON Schema means media, perhaps among other choices."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("format") == "media" or any(is_media(one) for one in schema.get("anyOf", ()))


def takes_many(schema: Any) -> bool:
    """Whether a JSON Schema means a list of media."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("type") == "array" and is_media(schema.get("items")) and not is_media(schema)
