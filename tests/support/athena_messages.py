"""The client's side of Athena's messages: requests as JSON, responses read, and the messages that lead to an input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import TYPES, DataObject
from penstock.athena.protocol.media import encoding_of, type_of
from penstock.athena.protocol.members import WHOLE, Member, Members, Role
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.objects import ObjectReader, packed
from penstock.athena.protocol.requests import DEFAULT, RequestMessage
from penstock.athena.protocol.responses import SUCCESS, Bodies, ResponseMessage
from penstock.models.replica.aiges.calls import text_of
from penstock.models.replica.runtime import Segment

_SESSION_ID: Final = re.compile(r"[a-z0-9]{3}[0-9a-f]{4}[0-9a-f]{4}@[a-z0-9]{2}[0-9a-f]{11}[0-9a-f]{4}[0-9]{2}2")
OWN_FIELDS: Final = frozenset({"code", "message", "sid", "status", "cid"})  # of the header of a response


def is_session_id(text: str) -> bool:
    """Return whether a text has the original's format of a session id."""
    return _SESSION_ID.fullmatch(text) is not None


def encode_request(message: RequestMessage) -> bytes:
    """Return a message as a client sends it, its data in base64; parts that are empty are left out."""
    found: dict[str, Any] = {}
    if message.header:
        found["header"] = message.header
    if message.parameter:
        found["parameter"] = {service: {**one.values, **one.expected} for service, one in message.parameter.items()}
    if message.payload:
        found["payload"] = {name: _written(one) for name, one in message.payload.items()}
    return msgspec.json.encode(found)


def _written(one: DataObject) -> dict[str, Any]:
    numbered = {} if one.seq is None else {"seq": one.seq}
    return {**one.attributes, "status": int(one.status), **numbered, one.type.value: packed(one)}


def decode_response(body: bytes, bodies: Bodies = Bodies.DOCUMENT) -> ResponseMessage:
    """Return a response as its client reads it. Raises InvalidInput."""
    value = msgspec.json.decode(body)
    stated = value["header"]
    mistakes = Mistakes()
    objects = _reader(mistakes, raw_text=bodies is Bodies.LOADER)
    code = stated.get("code", 0)
    found = ResponseMessage(
        code=code,
        message=text_of(stated.get("message", "" if code else SUCCESS)),
        sid=text_of(stated.get("sid", "")),
        status=objects.status(("header",), stated.get("status")),
        cid=text_of(stated.get("cid", "")),
        header={name: one for name, one in stated.items() if name not in OWN_FIELDS},
        payload=_objects(value.get("payload") or {}, objects),
    )
    mistakes.check()
    return found


def engine_request(json: bytes, segments: Sequence[Segment], service: str) -> ServiceRequest:
    """Return the message of a client that leads to this input of an engine."""
    value = msgspec.json.decode(json)
    parameter = value.get("parameter", {})
    payload = value.get("payload", {})
    media = {one.path: one for one in segments}
    for name, stated in payload.items():
        stated |= {kind: "" for kind in TYPES if ("payload", name, kind) in media}
    mistakes = Mistakes()
    found = _objects(payload, _reader(mistakes, raw_text=True))
    mistakes.check()
    for one in found:
        segment = media.get(("payload", one.name, one.type.value))
        one.data = one.data if segment is None else bytes(segment.in_memory())
    return ServiceRequest(
        service=service,
        header=value.get("header", {}),
        values={name: one for name, one in parameter.items() if not isinstance(one, dict)},
        expected={name: one for name, one in parameter.items() if isinstance(one, dict)},
        payload={one.name: one for one in found},
    )


def model_request(json: bytes, segments: Sequence[Segment], members: Members, service: str) -> ServiceRequest:
    """Return the message of a client that leads to this input of a model."""
    value = msgspec.json.decode(json)
    found = ServiceRequest(service=service)
    media = {one.path: one for one in segments}
    if members.whole is not None or not isinstance(value, dict):
        found.payload[WHOLE] = _object_of(WHOLE, value, media.get(()), members.whole)
        return found
    for name, stated in value.items():
        member = members.by_name.get(name)
        if member is not None and member.role is Role.MEDIA_LIST and stated and (name, 0) in media:
            for index in range(len(stated)):
                item = f"{name}_{index + 1}"
                found.payload[item] = _object_of(item, None, media[name, index], None)
        elif isinstance(stated, str | int | float) and (member is None or member.role is Role.PARAMETER):
            found.values[name] = stated
        else:
            found.payload[name] = _object_of(name, stated, media.get((name,)), member)
    return found


def _object_of(name: str, value: Any, segment: Segment | None, member: Member | None) -> DataObject:
    if segment is not None:
        kind = segment.media_type
        attributes = {"encoding": encoding_of(kind), "media_type": kind}
        return DataObject(name=name, type=type_of(kind), data=bytes(segment.in_memory()), attributes={**attributes})
    if isinstance(value, str) and (member is None or member.may_be_text):
        return DataObject(name=name, data=value.encode(), attributes={"encoding": "utf8", "format": "plain"})
    return DataObject(name=name, data=msgspec.json.encode(value), attributes={"encoding": "utf8", "format": "json"})


def _reader(mistakes: Mistakes, *, raw_text: bool) -> ObjectReader:
    return ObjectReader(mistakes, max_bytes=DEFAULT.max_data_bytes, max_fields=DEFAULT.max_fields, raw_text=raw_text)


def _objects(payload: Mapping[str, Any], reader: ObjectReader) -> list[DataObject]:
    found = (reader.read(name, one, {}) for name, one in payload.items())
    return [one for one in found if one is not None]
