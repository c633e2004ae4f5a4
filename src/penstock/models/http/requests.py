"""Read a model's input from an HTTP request: JSON, a form with files, or the bytes of one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.blobs.uploads import Uploads
from penstock.errors import InvalidInput, Unsupported
from penstock.models import media_types
from penstock.models.host.deployment import Deployment
from penstock.models.inputs import Input, from_json, placeholder, properties_of
from penstock.models.replica.data_urls import put
from penstock.models.replica.runtime import Segment
from penstock.models.uploads import is_media, takes_many
from penstock.web.forms import Part, read_form
from penstock.web.reading import decode
from penstock.web.request import Request, is_json

_any = msgspec.json.Decoder()
_FORM = "multipart/form-data"
_JSON_BEGINS = frozenset({b"{", b"[", b'"'})
_INPUT = "input"  # the part of a form that holds the other fields as one JSON object


async def read_input(request: Request, deployment: Deployment, uploads: Uploads) -> Input:
    """Return the input of a request, checked; ``load`` reads uploads that it refers to.

    Raises MalformedBody, InvalidInput, Unsupported, TooLarge, Overloaded and Disconnected.
    """
    stated = request.header(b"content-type")
    if stated is None or is_json(stated):
        body = await request.body() or b"{}"
        if _states_nothing(stated) and body[:1] not in _JSON_BEGINS:
            media_type = media_types.by_first_bytes(body)
            if media_type is not None:
                return _from_file(body, media_type, deployment)
            _require_text(body)
        return await from_json(body, deployment, uploads.of(request.principal.tenant))
    kind = stated.partition(";")[0].strip().lower()
    if kind == _FORM:
        return _from_form(await read_form(request, stated), deployment)
    if kind.startswith(("text/", "application/xml")):
        raise Unsupported(f"the body must be application/json, {_FORM}, or one file's bytes, not {kind[:100]}")
    return _from_file(await request.content(), kind, deployment)


def _states_nothing(content_type: str | None) -> bool:
    """Return whether a request states no media type, or the one of forms, which ``curl --data-binary`` adds."""
    return content_type is None or content_type.startswith("application/x-www-form-urlencoded")


def _require_text(body: bytes) -> None:
    """Refuse bytes that cannot be JSON; the message states what is missing."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unsupported(
            "the body is not JSON, and its first bytes show no media type: state one in the header Content-Type, "
            "such as image/png"
        ) from None


def _from_form(parts: Sequence[Part], deployment: Deployment) -> Input:
    properties = properties_of(deployment)
    shown: dict[str, Any] = {}  # the input as the schema sees it
    segments: list[Segment] = []
    for part in parts:
        if part.name == _INPUT and part.filename is None:
            shown |= _object(part.data)
    for part in parts:
        if part.filename is not None:
            several = takes_many(properties.get(part.name))
            path: tuple[str | int, ...] = (part.name, len(shown.get(part.name, []))) if several else (part.name,)
            kind = media_types.resolved(part.media_type, part.data, part.filename)
            segment = Segment(part.data, kind, path, part.filename or None)
            segments.append(segment)
            if several:
                shown.setdefault(part.name, []).append(placeholder(segment))
            elif part.name in shown:
                raise InvalidInput.of(part.name, "must be given once")
            else:
                shown[part.name] = placeholder(segment)
        elif part.name != _INPUT:
            if part.name in shown:
                raise InvalidInput.of(part.name, "must be given once")
            shown[part.name] = _field(part, properties.get(part.name))
    deployment.checker.check(shown)
    for segment in segments:
        put(shown, segment.path, None)
    return Input(msgspec.json.encode(shown), segments)


def _from_file(data: bytes, media_type: str, deployment: Deployment) -> Input:
    """Return the bytes of the one file that the model takes as its input."""
    names = [name for name, schema in properties_of(deployment).items() if is_media(schema)]
    if len(names) != 1:
        takes = f"{len(names)} files" if names else "no file"
        raise Unsupported(f"this model takes {takes}: send application/json or {_FORM}, not {media_type[:100]}")
    segment = Segment(data, media_types.resolved(media_type, data), (names[0],))
    deployment.checker.check({names[0]: placeholder(segment)})
    return Input(msgspec.json.encode({names[0]: None}), [segment])


def _field(part: Part, schema: Any) -> Any:
    """Convert a form's text by the schema: keep it where text is allowed, otherwise parse it as JSON."""
    try:
        text = part.data.decode()
    except UnicodeDecodeError:
        raise InvalidInput.of(part.name, "is not valid UTF-8; send a file with a file name") from None
    if part.media_type != "application/json" and _may_be_text(schema):
        return text
    try:
        return decode(part.data, _any)
    except Exception:  # noqa: BLE001 - then it is text, and the schema says what it should be
        return text


def _may_be_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or "type" not in schema:
        return isinstance(schema, Mapping) and any(_may_be_text(one) for one in schema.get("anyOf", ()))
    kinds = schema["type"]
    return "string" in (kinds if isinstance(kinds, list) else [kinds])


def _object(data: bytes) -> dict[str, Any]:
    value = decode(data, _any)
    if not isinstance(value, dict):
        raise InvalidInput.of(_INPUT, "must be a JSON object")
    return value
