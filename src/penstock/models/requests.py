"""From an HTTP request to a model's input: JSON, a form with files, or the bytes of one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from penstock.errors import InvalidInput, NotFound, TooLarge, Unsupported
from penstock.models import media_types
from penstock.models.host.deployment import Deployment
from penstock.models.replica.contract.violations import dotted
from penstock.models.replica.runtime import Segment
from penstock.models.uploads import Load, Upload, is_media, takes_many, uploads_in
from penstock.web.forms import Part, read_form
from penstock.web.reading import decode
from penstock.web.request import Request, is_json

_any = msgspec.json.Decoder()
_FORM = "multipart/form-data"
_JSON_BEGINS = frozenset({b"{", b"[", b'"'})
_INPUT = "input"  # the part of a form that holds the other fields as one JSON object


@dataclass(frozen=True, slots=True)
class Input:
    """An input that its model's schema allows: JSON with null where segments stand."""

    json: bytes
    segments: Sequence[Segment] = ()


async def read_input(request: Request, deployment: Deployment, load: Load) -> Input:
    """The input of a request, checked; ``load`` reads uploads that it names. Raises MalformedBody, InvalidInput,
    Unsupported, TooLarge, Disconnected."""
    stated = request.header(b"content-type")
    if stated is None or is_json(stated):
        body = await request.body() or b"{}"
        if _states_nothing(stated) and body[:1] not in _JSON_BEGINS:
            media_type = media_types.by_first_bytes(body)
            if media_type is not None:
                return _from_file(body, media_type, deployment)
            _require_text(body)
        return await from_json(body, deployment, load)
    kind = stated.partition(";")[0].strip().lower()
    if kind == _FORM:
        return _from_form(await read_form(request, stated), deployment)
    if kind.startswith(("text/", "application/xml")):
        raise Unsupported(f"the body must be application/json, {_FORM}, or one file's bytes, not {kind[:100]}")
    return _from_file(b"".join([chunk async for chunk in request.chunks()]), kind, deployment)


def _states_nothing(content_type: str | None) -> bool:
    """Return whether a request states no media type: ``curl --data-binary`` sends that of a form, and means none."""
    return content_type is None or content_type.startswith("application/x-www-form-urlencoded")


def _require_text(body: bytes) -> None:
    """Refuse bytes that cannot be JSON, with what is missing."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unsupported(
            "the body is not JSON, and its first bytes show no media type: state one in the header Content-Type, "
            "such as image/png"
        ) from None


async def from_json(body: bytes, deployment: Deployment, load: Load) -> Input:
    """A JSON body as an input; raises MalformedBody, InvalidInput."""
    value = decode(body, _any)
    segments = await _uploads(value, body, deployment, load)
    for segment in segments:
        _set(value, segment.path, _placeholder(segment))
    deployment.checker.check(value, json=body)
    if not segments:
        return Input(body)
    for segment in segments:
        _set(value, segment.path, None)
    return Input(msgspec.json.encode(value), segments)


async def _uploads(value: Any, body: bytes, deployment: Deployment, load: Load) -> list[Segment]:
    """The uploads that an input names, each read once; together they are no larger than a call may be."""
    found = list(uploads_in(value, _properties(deployment)))
    if not found:
        return []
    deployment.checker_of_jobs.check(value, json=body)  # before anything is read
    left = load.most_bytes
    read: dict[UUID, Upload] = {}
    segments: list[Segment] = []
    for path, upload_id in found:
        try:
            upload = read[upload_id] = read.get(upload_id) or await load(upload_id, most_bytes=left)
        except (NotFound, TooLarge) as error:
            raise InvalidInput.of(dotted(path), error.message) from None
        left -= len(upload.data)  # also of one that is named again: it is sent again
        if left < 0:
            raise InvalidInput.of(dotted(path), f"with this the uploads exceed {load.most_bytes} bytes")
        kind = media_types.resolved(upload.media_type, upload.data, upload.name)
        segments.append(Segment(upload.data, kind, path, upload.name))
    return segments


def _from_form(parts: Sequence[Part], deployment: Deployment) -> Input:
    properties = _properties(deployment)
    shown: dict[str, Any] = {}  # as the schema is to see it
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
                shown.setdefault(part.name, []).append(_placeholder(segment))
            elif part.name in shown:
                raise InvalidInput.of(part.name, "must be given once")
            else:
                shown[part.name] = _placeholder(segment)
        elif part.name != _INPUT:
            if part.name in shown:
                raise InvalidInput.of(part.name, "must be given once")
            shown[part.name] = _field(part, properties.get(part.name))
    deployment.checker.check(shown)
    for segment in segments:
        _set(shown, segment.path, None)
    return Input(msgspec.json.encode(shown), segments)


def _from_file(data: bytes, media_type: str, deployment: Deployment) -> Input:
    """The bytes of the one media that the model takes."""
    names = [name for name, schema in _properties(deployment).items() if is_media(schema)]
    if len(names) != 1:
        takes = f"{len(names)} files" if names else "no file"
        raise Unsupported(f"this model takes {takes}: send application/json or {_FORM}, not {media_type[:100]}")
    segment = Segment(data, media_types.resolved(media_type, data), (names[0],))
    deployment.checker.check({names[0]: _placeholder(segment)})
    return Input(msgspec.json.encode({names[0]: None}), [segment])


def _properties(deployment: Deployment) -> Mapping[str, Any]:
    properties = deployment.schema.input.get("properties", {}) if deployment.schema is not None else {}
    return properties if isinstance(properties, Mapping) else {}


def _field(part: Part, schema: Any) -> Any:
    """A form's text as the schema wants it: text where it may be text, JSON otherwise."""
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


def _placeholder(segment: Segment) -> str:
    """What the schema sees of media that travel beside the JSON."""
    return f"data:{segment.media_type},"


def _set(value: Any, path: Sequence[str | int], to: Any) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = to
