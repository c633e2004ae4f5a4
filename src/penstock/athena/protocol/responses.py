"""Response messages in both forms that clients know, encoded for them and decoded by them.

The **document's** form has ``message`` in every header, base64 for every type, JSON inline where the format is
``json``, and numbers as numbers. The **loader's** form, of version 3 of the original loader, has text as it is, other
types in base64, attributes as strings, and ``"payload": null`` beside an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import DataObject, DataType, Scalar, Status, text_of
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.objects import ObjectReader, packed, written
from penstock.athena.protocol.requests import DEFAULT, Limits
from penstock.errors import InvalidInput
from penstock.web.reading import decode

SUCCESS: Final = "success"

_any: Final = msgspec.json.Decoder()
_OWN_FIELDS: Final = frozenset({"code", "message", "sid", "status", "cid", "session"})


class Bodies(StrEnum):
    """The form of response messages."""

    DOCUMENT = "document"
    LOADER = "loader"


@dataclass(slots=True, kw_only=True)
class ResponseMessage:
    """One message to a client: an outcome, perhaps with results."""

    code: int = 0  # 0: success
    message: str = SUCCESS
    sid: str = ""
    status: Status | None = None
    cid: str = ""  # of a session in a multiplexed stream
    session: str = ""  # what a client states to reach the same engine again
    header: dict[str, Scalar] = field(default_factory=dict)  # fields of the request that its schema repeats
    payload: Sequence[DataObject] = ()


def encode_response(response: ResponseMessage, bodies: Bodies = Bodies.DOCUMENT) -> bytes:
    """Return a response as JSON."""
    loader = bodies is Bodies.LOADER
    message: dict[str, Any] = {"header": _header(response, loader=loader)}
    if response.payload:
        message["payload"] = {
            one.name: _as_loader(one) if loader else written(one, inline=True) for one in response.payload
        }
    elif loader and response.code:
        message["payload"] = None
    return msgspec.json.encode(message)


def _header(response: ResponseMessage, *, loader: bool) -> dict[str, Any]:
    header: dict[str, Any] = dict(response.header)
    header["code"] = response.code
    if response.code or not loader:
        header["message"] = response.message
    header["sid"] = response.sid
    if response.status is not None:
        header["status"] = int(response.status)
    if response.cid:
        header["cid"] = response.cid
    if response.session:
        header["session"] = response.session
    return header


def _as_loader(one: DataObject) -> dict[str, Any]:
    found: dict[str, Any] = {name: text_of(value) for name, value in one.attributes.items()}
    found["status"] = str(int(one.status))
    if one.seq is not None:
        found["seq"] = str(one.seq)
    found[one.type.value] = _text_or_base64(one)
    return found


def _text_or_base64(one: DataObject) -> str | bytes:
    """Return text as it is; other data, and text that is not UTF-8, as bytes, which are encoded as base64."""
    if one.type is DataType.TEXT:
        try:
            return one.data.decode()
        except UnicodeDecodeError:
            pass
    return packed(one)


def decode_response(body: bytes, bodies: Bodies = Bodies.DOCUMENT, *, limits: Limits = DEFAULT) -> ResponseMessage:
    """Return a response as its client reads it. Raises MalformedBody and InvalidInput."""
    value = decode(body, _any)
    header = value.get("header") if isinstance(value, dict) else None
    if not isinstance(header, dict):
        raise InvalidInput.of("header", "must be an object")
    mistakes = Mistakes()
    objects = ObjectReader(
        mistakes,
        max_bytes=limits.max_data_bytes,
        max_fields=limits.max_fields,
        raw_text=bodies is Bodies.LOADER,
    )
    stated = objects.scalars(("header",), header, "a field of the header, which has one level")
    code = stated.get("code", 0)
    if isinstance(code, bool) or not isinstance(code, int):
        mistakes.add(("header", "code"), "must be a whole number")
        code = 0
    found = ResponseMessage(
        code=code,
        message=text_of(stated.get("message", "" if code else SUCCESS)),
        sid=text_of(stated.get("sid", "")),
        status=objects.status(("header",), header.get("status")),
        cid=text_of(stated.get("cid", "")),
        session=text_of(stated.get("session", "")),
        header={name: one for name, one in stated.items() if name not in _OWN_FIELDS},
        payload=_payload(value.get("payload"), objects, mistakes, limits),
    )
    mistakes.check()
    return found


def _payload(value: Any, objects: ObjectReader, mistakes: Mistakes, limits: Limits) -> list[DataObject]:
    if value is None:
        return []
    if not isinstance(value, Mapping) or len(value) > limits.max_objects:
        mistakes.add(("payload",), f"must be an object with at most {limits.max_objects} results")
        return []
    found = (objects.read(name, one, {}) for name, one in value.items())
    return [one for one in found if one is not None]
