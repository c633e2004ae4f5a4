"""Messages and the calls of engines: JSON with the media beside it, as replicas of engines get and return them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from penstock.athena.protocol import packing
from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import TYPES, DataObject, DataType, Scalar, Status
from penstock.athena.protocol.media import media_type_of
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.objects import ObjectReader
from penstock.athena.protocol.requests import Limits
from penstock.errors import InvalidInput, ModelFailed
from penstock.models.replica.runtime import Segment

_any: Final = msgspec.json.Decoder()
_OF_RESULTS: Final = Limits(max_data_bytes=64 << 20)  # as much as a call may have unless PENSTOCK_MAX_CALL_BYTES is set
_INVALID_RESULT: Final = 10106
_OF_DATA: Final = ("encoding", "compress", "format")  # attributes of text by which a result is written


@dataclass(slots=True)
class CallInput:
    """The input of a call, or a part of a session: JSON, with null at the places of segments."""

    json: bytes
    segments: Sequence[Segment] = ()
    fields: Mapping[str, str] = field(default_factory=dict)  # beginnings of fields → those of the message
    value: Any = None  # what ``json`` states; the check of the model's schema may change it


def engine_input(request: ServiceRequest, sid: str = "") -> CallInput:
    """Return the input of an engine's call. Its header gets the id of the call or session, its data is plain."""
    value: dict[str, Any] = {}
    header = {**request.header, "sid": sid} if sid else request.header
    if header:
        value["header"] = header
    if request.values or request.expected:
        value["parameter"] = {**request.values, **request.expected}
    segments: list[Segment] = []
    if request.payload:
        value["payload"] = {name: _engine_object(name, one, segments) for name, one in request.payload.items()}
    fields = {f"payload.{name}": request.payload_field(name) for name in request.names}
    fields["parameter"] = f"parameter.{request.service}"
    return CallInput(msgspec.json.encode(value), segments, fields, value)


def _engine_object(name: str, one: DataObject, segments: list[Segment]) -> dict[str, Any]:
    found: dict[str, Any] = dict(plain_attributes(one))
    found["status"] = int(one.status)
    if one.seq is not None:
        found["seq"] = one.seq
    text = _text(one)
    found[one.type.value] = text
    if text is None:
        segments.append(Segment(one.data, media_type_of(one), ("payload", name, one.type.value)))
    return found


def plain_attributes(one: DataObject) -> Mapping[str, Scalar]:
    """Return the attributes of data that is plain, whatever it was in its message."""
    changed: dict[str, Scalar] = {}
    if one.attributes.get("compress") == "gzip":
        changed["compress"] = "raw"
    if one.type is DataType.TEXT and packing.character_set(one.attributes.get("encoding")) not in {None, "utf-8"}:
        changed["encoding"] = "utf8"
    return {**one.attributes, **changed} if changed else one.attributes


def _text(one: DataObject) -> str | None:
    """Return the data of text; None for other types, and for text that is not UTF-8, which is sent as bytes."""
    if one.type is not DataType.TEXT:
        return None
    try:
        return one.data.decode()
    except UnicodeDecodeError:
        return None


def engine_output(
    json: bytes,
    segments: Sequence[Segment] = (),
    expected: Mapping[str, Mapping[str, Scalar]] | None = None,
    *,
    limits: Limits = _OF_RESULTS,
) -> list[DataObject]:
    """Return the results in the output, or chunk, of an engine, with the attributes that the request expects.

    Raises ModelFailed for an output of another form, and CallFailed for media in a file that is too large.
    """
    try:
        payload = _any.decode(json)["payload"]
        found = _objects(payload, {one.path: one for one in segments}, limits)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError, AttributeError):
        raise ModelFailed("the engine returned an output without a payload of data objects") from None
    except InvalidInput as error:
        failure = ModelFailed(f"the engine returned an output that is not valid: {error.message}")
        failure.engine_code = _INVALID_RESULT
        raise failure from None
    for one in found:
        take_expected(one, (expected or {}).get(one.name, {}))
    return found


def _objects(
    payload: Mapping[str, Any], media: Mapping[tuple[str | int, ...], Segment], limits: Limits
) -> list[DataObject]:
    mistakes = Mistakes()
    reader = ObjectReader(mistakes, max_bytes=limits.max_data_bytes, max_fields=limits.max_fields, raw_text=True)
    found: list[DataObject] = []
    for name, stated in payload.items():
        kind = next((kind for kind in TYPES if kind in stated), None)
        segment = media.get(("payload", name, kind)) if kind else None
        value = {**stated, kind: ""} if segment is not None and kind else stated
        one = reader.read(name, value, {})
        if one is not None:
            if segment is not None:
                one.data = _unpacked(bytes(segment.in_memory()), one, limits)
            found.append(one)
    mistakes.check()
    return found


def _unpacked(data: bytes, one: DataObject, limits: Limits) -> bytes:
    """Return an engine's data as plain: what it has packed itself, as its attributes state, is unpacked."""
    if one.attributes.get("compress") == "gzip" and packing.is_gzip(data):
        try:
            data = packing.from_gzip(data, limits.max_data_bytes)
        except packing.Undecodable as error:
            raise InvalidInput.of(f"payload.{one.name}.{one.type.value}", str(error)) from None
    if one.type is DataType.TEXT:
        with contextlib.suppress(packing.Undecodable):  # then it is sent as it is
            return packing.to_utf8(data, one.attributes.get("encoding"))
    return data


def take_expected(one: DataObject, expected: Mapping[str, Scalar]) -> None:
    """Add the attributes that a request expects of a result. Of text they also decide how it is written; of other
    types the engine knows better."""
    for name, value in expected.items():
        if name in {"data_type", "status", "seq", *TYPES}:
            continue
        if name not in one.attributes or (one.type is DataType.TEXT and name in _OF_DATA):
            one.attributes[name] = value


def last_status(results: Sequence[DataObject]) -> Status:
    """Return the status of a response that carries these results: the end, once each of them has ended."""
    statuses = {one.status for one in results}
    if len(statuses) == 1:
        return next(iter(statuses))
    return Status.END if statuses and all(one.last for one in statuses) else Status.CONTINUE
