"""Write media into JSON as ``data:`` URLs, for runtimes that cannot carry them otherwise, and extract them again.

Used in replicas: imports stay within msgspec and the standard library.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.models.replica import base64_text
from penstock.models.replica.file_bytes import MAX_WHOLE_BYTES, FileBytes
from penstock.models.replica.runtime import Output, Segment

Path = tuple[str | int, ...]

_MAX_HEAD: Final = 1000  # characters of a URL before its comma


class Unreadable(ValueError):
    """A ``data:`` URL, or the JSON around it, cannot be read. ``field`` is the place, such as ``images[2]``."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def inlined(json: bytes, segments: Sequence[Segment]) -> bytes:
    """Return JSON with ``segments`` written into it as ``data:`` URLs, in the places that hold null.

    Raises CallFailed (``bad_input``) for segments in files that have too many bytes for that, together.
    """
    if not segments:
        return json
    value: Any = msgspec.json.decode(json)
    size = sum(segment.data.size for segment in segments if isinstance(segment.data, FileBytes))
    if size > MAX_WHOLE_BYTES:
        detail = f"has files of {size} bytes; as text in JSON at most {MAX_WHOLE_BYTES} are possible"
        raise CallFailed(Category.BAD_INPUT, detail)
    for segment in segments:
        url = f"data:{segment.media_type};base64,{base64.b64encode(segment.in_memory()).decode()}"
        value = put(value, segment.path, url)
    return msgspec.json.encode(value)


class Lifter:
    """Takes media out of JSON, at the places where one JSON Schema says ``"format": "media"``.

    The places are found through ``properties``, ``additionalProperties``, ``items`` and ``anyOf``.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema: Mapping[str, Any] = schema if _speaks_of_media(schema) else {}

    def paths(self, json: bytes) -> dict[Path, str]:
        """Return the places of strings that begin like an absolute path, with the strings. Raises Unreadable."""
        return dict(_found(self._schema, _decoded(json), (), "/")) if self._schema else {}

    def lift(self, json: bytes) -> Output:
        """Return the value with null in place of ``data:`` URLs, and their media as segments. Other strings stay.
        Raises Unreadable."""
        if not self._schema:
            return Output(json)
        value = _decoded(json)
        found = dict(_found(self._schema, value, ()))
        if not found:
            return Output(json)
        segments = [segment_of(url, path) for path, url in found.items()]
        for path in found:
            value = put(value, path, None)
        return Output(msgspec.json.encode(value), segments)


def _decoded(json: bytes) -> Any:
    try:
        return msgspec.json.decode(json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"it is not JSON that can be read: {error}") from None


def put(value: Any, path: Path, new: object) -> Any:
    """Return ``value`` with ``new`` at ``path``; it is changed in place, unless the path is empty."""
    if not path:
        return new
    where = value
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = new
    return value


def _speaks_of_media(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("format") == "media" or any(_speaks_of_media(inner) for inner in schema.values())
    return isinstance(schema, list) and any(_speaks_of_media(inner) for inner in schema)


def _found(schema: Any, value: Any, path: Path, begin: str = "data:") -> Iterator[tuple[Path, str]]:
    """Yield the places of strings with this beginning that are media by their schema; a place may occur twice."""
    if not isinstance(schema, Mapping):
        return
    if isinstance(value, str):
        if value.startswith(begin) and _is_media(schema):
            yield path, value
        return
    for choice in schema.get("anyOf", ()):
        yield from _found(choice, value, path, begin)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name, inner in value.items():
            yield from _found(properties.get(name, schema.get("additionalProperties")), inner, (*path, name), begin)
    elif isinstance(value, list) and "items" in schema:
        for index, inner in enumerate(value):
            yield from _found(schema["items"], inner, (*path, index), begin)


def _is_media(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    return schema.get("format") == "media" or any(_is_media(choice) for choice in schema.get("anyOf", ()))


def segment_of(url: str, path: Path) -> Segment:
    comma = url.find(",", 0, _MAX_HEAD)
    if comma < 0:
        raise Unreadable("must be a data: URL, like data:image/png;base64,iVBORw0KGgo=", dotted(path))
    stated, *parameters = url[5:comma].split(";")
    body = url[comma + 1 :]
    if parameters and parameters[-1].strip().lower() == "base64":
        try:
            data = base64_text.decoded(body)
        except ValueError as error:
            raise Unreadable(f"has base64 that is not valid: {error}", dotted(path)) from None
    else:
        data = unquote_to_bytes(body)
    return Segment(data, stated.strip().lower() or "text/plain", path)
